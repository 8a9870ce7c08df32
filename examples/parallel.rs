//! Answers several questions at once, each on a line of its own, and says how fast all of them were together.
//!
//! ```text
//! parallel MODEL.gguf QUESTION...
//! ```

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

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

    let start = Instant::now();
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
    let mut n_generated = 0;
    for (question, answer) in questions.iter().zip(answers) {
        let outcome = answer.finish()?;
        let stats = outcome.stats;
        n_generated += stats.n_generated;
        writeln!(
            std::io::stdout(),
            "{question} -> {} ({} of {} prompt tokens cached, {} generated)",
            outcome.text.trim(),
            stats.n_cached,
            stats.n_prompt,
            stats.n_generated
        )?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let speed = n_generated as f64 / seconds;
    writeln!(
        std::io::stderr(),
        "{n_generated} tokens in {seconds:.2} s: {speed:.1} tokens/s"
    )?;
    Ok(())
}
