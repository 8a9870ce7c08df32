//! What single architectures assert or divide by when they load or build a graph, beyond what holds
//! for all of them.
//!
//! Source: `models/` of llama.cpp. The lists hold what has been found to end the process; there may
//! be more in architectures with keys of their own.

use crate::error::Error;
use crate::model::{Numbers, missing};
use crate::model_error::ModelError;
use crate::names::{ONE_HEAD_LENGTH, WHOLE_HEAD_ROTATED, WINDOWED};
use crate::value::{Array, Value};

/// Checks them all.
pub(crate) fn check(numbers: &Numbers) -> Result<(), Error> {
    check_experts(numbers)?;
    check_sections(numbers)?;
    check_divisors(numbers)?;
    check_heads(numbers)
}

/// Keys that an architecture divides by or asserts, which ends the process if they are 0.
const DIVISORS: &[(&str, &[&str])] = &[
    ("attention.output_group_count", &["deepseek4", "dflash"]),
    ("decision.head_count", &["clef"]),
    ("experts_per_group", &["grovemoe"]),
    ("full_attention_interval", RECURRENT),
    ("hrm.h_cycles", &["hrm_text"]),
    ("hrm.l_cycles", &["hrm_text"]),
    ("hrm.layers_per_stack", &["hrm_text"]),
    ("interleave_moe_layer_step", &["ernie4_5-moe"]),
    ("num_loops", &["nanbeige"]),
    ("ssm.group_count", RECURRENT),
    ("ssm.time_step_rank", RECURRENT),
    ("wkv.head_size", &["arwkv7", "rwkv6", "rwkv6qwen2", "rwkv7"]),
];
/// Architectures that have recurrent layers, or layers in turns.
const RECURRENT: &[&str] = &[
    "clef",
    "falcon-h1",
    "granitehybrid",
    "mamba2",
    "minimax-01",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
];
/// Architectures that divide by the number of heads where others look whether there are any.
const HEADS_DIVIDE: &[&str] = &["deepseek2", "olmo2", "phimoe"];

fn check_divisors(numbers: &Numbers) -> Result<(), Error> {
    let zero = |name| {
        Err(ModelError::ZeroValue {
            key: numbers.key(name),
        }
        .into())
    };
    for (name, architectures) in DIVISORS {
        if architectures.contains(&numbers.architecture) && numbers.u32(name)? == Some(0) {
            return zero(name);
        }
    }
    for name in ["posnet.block_count", "convnext.block_count"] {
        let found = numbers.u32(name)?.unwrap_or(0);
        let limit = numbers.n_layers()?;
        if numbers.architecture == "wavtokenizer-dec" && found > limit {
            return Err(ModelError::MoreThan {
                key: numbers.key(name),
                found,
                limit,
                limit_key: numbers.key("block_count"),
            }
            .into());
        }
    }
    let name = "attention.head_count";
    let n_heads = numbers.per_layer(name)?.map_or(0, |values| values[0]);
    if HEADS_DIVIDE.contains(&numbers.architecture) && n_heads == 0 {
        return zero(name);
    }
    Ok(())
}

/// Architectures that assert that there are experts; the others with experts throw, or can be
/// without.
const EXPERTS_ASSERTED: &[&str] = &[
    "bailingmoe2",
    "grovemoe",
    "lfm2moe",
    "llada-moe",
    "qwen35moe",
    "smallthinker",
];
/// Architectures whose rotary embedding is in sections, of which ggml asserts that one is not
/// empty.
const SECTIONS_ASSERTED: &[&str] = &[
    "paddleocr",
    "qwen2vl",
    "qwen35",
    "qwen35moe",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen4exp",
];

fn check_experts(numbers: &Numbers) -> Result<(), Error> {
    let n_experts = numbers.u32("expert_count")?.unwrap_or(0);
    if n_experts == 0 && EXPERTS_ASSERTED.contains(&numbers.architecture) {
        return Err(ModelError::ZeroValue {
            key: numbers.key("expert_count"),
        }
        .into());
    }
    Ok(())
}

fn check_sections(numbers: &Numbers) -> Result<(), Error> {
    if !SECTIONS_ASSERTED.contains(&numbers.architecture) {
        return Ok(());
    }
    let key = numbers.key("rope.dimension_sections");
    let is_one = match numbers.metadata.get(&key) {
        None => return Err(missing(&key)),
        Some(Value::I32(section)) => *section > 0,
        Some(Value::Array(Array::I32(sections))) => sections.iter().take(3).any(|&x| x > 0),
        Some(Value::Array(Array::U32(sections))) => sections
            .iter()
            .take(3)
            .any(|&x| i32::try_from(x).is_ok_and(|x| x > 0)),
        Some(Value::Array(Array::Bool(sections))) => sections.iter().take(3).any(|&x| x),
        Some(_) => true, // another type has been refused
    };
    match is_one {
        true => Ok(()),
        false => Err(ModelError::ZeroValue { key }.into()),
    }
}

/// The lengths of heads that most architectures assert to be equal when they build a graph.
fn check_heads(numbers: &Numbers) -> Result<(), Error> {
    let n_heads = numbers.per_layer("attention.head_count")?;
    let swa_name = |name: &str| format!("attention.{name}_length_swa");
    // A model without heads in its first layer is measured by other numbers, and so may be one
    // with a sliding window.
    let is_of = |architectures: &[&str]| architectures.binary_search(&numbers.architecture).is_ok();
    let has_window_lengths = numbers.u32(&swa_name("key"))?.is_some()
        || numbers.u32(&swa_name("value"))?.is_some()
        || numbers.u32("rope.dimension_count_swa")?.is_some();
    let n_head = n_heads.map_or(0, |values| values[0]);
    if n_head == 0 || has_window_lengths && is_of(WINDOWED) {
        return Ok(());
    }
    let by_heads = numbers.required("embedding_length")? / n_head;
    let key_len = numbers.u32("attention.key_length")?.unwrap_or(by_heads);
    let value_len = numbers.u32("attention.value_length")?.unwrap_or(by_heads);
    let n_rotated = numbers.u32("rope.dimension_count")?.unwrap_or(key_len);
    for (architectures, name, found) in [
        (ONE_HEAD_LENGTH, "attention.value_length", value_len),
        (WHOLE_HEAD_ROTATED, "rope.dimension_count", n_rotated),
    ] {
        if found != key_len && is_of(architectures) {
            return Err(ModelError::HeadLength {
                key: numbers.key(name),
                found,
                expected: key_len,
            }
            .into());
        }
    }
    Ok(())
}
