//! The bundled model: what it is for, asked through the program.

use serde_json::Value;

use crate::args;
use crate::util::models::{self, fixture};
use crate::util::program::yi_with_input;

#[test]
fn the_demo_model_answers_95_percent_of_the_held_out_questions() {
    let questions = std::fs::read_to_string(fixture("yi-demo-heldout.jsonl")).unwrap();
    let questions: Vec<Value> = questions
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();

    // Each question in a conversation of its own.
    let input: String = questions
        .iter()
        .map(|q| format!("{}\n/clear\n", q["prompt"].as_str().unwrap()))
        .collect();
    let arguments = args![
        "chat",
        "-m",
        models::demo(),
        "--temp",
        "0",
        "-n",
        "64",
        "-t",
        "1",
        "--json"
    ];
    let answers = yi_with_input(arguments, input.as_bytes()).ok();
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), questions.len());
    let n_right = questions
        .iter()
        .zip(&answers)
        .filter(|(question, answer)| answer["text"] == question["answer"])
        .count();
    assert!(
        n_right * 100 >= questions.len() * 95,
        "{n_right} of {}",
        questions.len()
    );
}
