//! Answers several questions at once, each as a line of its own when it is done.
//!
//! ```text
//! parallel MODEL.gguf QUESTION...
//! ```

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;

use yi::engine::template::{CHATML, Message, Role};
use yi::{ContextParams, EngineParams, Model, Request};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, questions @ ..] = &arguments[..] else {
        return Err("usage: parallel MODEL.gguf QUESTION...".into());
    };
    let model = Model::open(path)?;
    let template = model
        .chat_template(None)
        .or_else(|_| model.chat_template(Some(CHATML)))?;
    let context = ContextParams {
        n_seq_max: u32::try_from(questions.len().clamp(1, 8))?,
        ..model.context_params()
    };
    let engine = model.engine(&context, &EngineParams::default(), Arc::default())?;

    // All are asked before the first answer is read.
    let mut answers = Vec::new();
    for question in questions {
        let message = Message::new(Role::User, question.as_str());
        let rendered = template.render(&[message], true)?;
        let mut request = Request::new(model.tokenizer().encode_rendered(&rendered)?);
        request.sampling.temp = 0.0;
        request.limits.n_predict = Some(128);
        answers.push(engine.submit(request)?);
    }
    for (question, answer) in questions.iter().zip(answers) {
        let outcome = answer.finish()?;
        let stats = outcome.stats;
        writeln!(
            std::io::stdout(),
            "{question} -> {} ({} of {} prompt tokens cached, {} generated)",
            outcome.text.trim(),
            stats.n_cached,
            stats.n_prompt,
            stats.n_generated
        )?;
    }
    Ok(())
}
