//! Reading `tools` and `tool_choice`, as chat and responses write them.

use serde_json::Value;

use crate::server::api_error::ApiError;
use crate::server::app::Served;
use crate::server::json::{Fields, wrong};
use crate::server::tools::{MAX_TOOLS, Tool, ToolChoice, Tools};

/// Takes the fields. `None` where there are no tools, or none is to be called.
pub fn read(fields: &mut Fields, model: &Served) -> Result<Option<Tools>, ApiError> {
    let items = fields.array("tools")?.unwrap_or_default();
    let choice = choice(fields)?;
    let parallel = fields.bool("parallel_tool_calls")?.unwrap_or(true);
    if items.is_empty() {
        return match choice {
            None | Some(ToolChoice::Auto) => Ok(None),
            Some(_) => Err(ApiError::invalid(
                "tool_choice",
                "tool_choice is only for requests with tools",
            )),
        };
    }
    let tool = |(i, item)| tool(Fields::new(item, format!("tools[{i}]"))?);
    let all = items.into_iter().enumerate().map(tool);
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let Some(choice) = choice else {
        return Ok(None);
    };
    tools(model, all, choice, parallel)
}

/// Checks that the model can call the tools.
pub fn tools(
    model: &Served,
    all: Vec<Tool>,
    choice: ToolChoice,
    parallel: bool,
) -> Result<Option<Tools>, ApiError> {
    if all.len() > MAX_TOOLS {
        let n = all.len();
        let message = format!("there are {n} tools; at most {MAX_TOOLS} are accepted");
        return Err(ApiError::invalid("tools", message));
    }
    let format = model.calls.ok_or_else(|| {
        ApiError::unsupported(
            "tools",
            "the model's chat template has no place for tools, or writes calls in a way that is not known here",
        )
    })?;
    if let Some(tool) = (1..all.len()).find(|&i| all[..i].iter().any(|t| t.name == all[i].name)) {
        let message = format!("two tools have the name {:?}", all[tool].name);
        return Err(ApiError::invalid("tools", message));
    }
    if let ToolChoice::Named(name) = &choice
        && !all.iter().any(|tool| tool.name == *name)
    {
        let message = format!("tool_choice names {name:?}, which is not among the tools");
        return Err(ApiError::invalid("tool_choice", message));
    }
    Ok(Some(Tools {
        format,
        all,
        choice,
        parallel,
    }))
}

fn tool(mut fields: Fields) -> Result<Tool, ApiError> {
    let path = fields.path("type");
    let kind = fields.string("type")?;
    let kind = fields.require("type", kind)?;
    if kind != "function" {
        let message = format!("{path} is {kind:?}; only functions can be called here");
        return Err(ApiError::unsupported(path, message));
    }
    // Chat has the function in an object of its own, responses have it at the top.
    let path = fields.path("function");
    let mut function = match fields.object("function")? {
        Some(function) => function,
        None if fields.has("name") => fields,
        None => return Err(ApiError::missing(path)),
    };
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    let description = function.string("description")?;
    function.bool("strict")?;
    let parameters = function.take("parameters");
    let path = function.path("");
    Tool::new(name, description, parameters, path.trim_end_matches('.'))
}

/// What `tool_choice` says; `None` for `none`.
fn choice(fields: &mut Fields) -> Result<Option<ToolChoice>, ApiError> {
    match fields.take("tool_choice") {
        None => Ok(Some(ToolChoice::Auto)),
        Some(Value::String(word)) => match word.as_str() {
            "none" => Ok(None),
            "auto" => Ok(Some(ToolChoice::Auto)),
            "required" => Ok(Some(ToolChoice::Required)),
            _ => Err(wrong(
                "tool_choice",
                &Value::String(word),
                "none, auto, required, or a function",
            )),
        },
        Some(value) => {
            let mut fields = Fields::new(value, "tool_choice")?;
            fields.choice("type", &[("function", ())])?;
            let mut function = match fields.object("function")? {
                Some(function) => function,
                None => fields,
            };
            let name = function.string("name")?;
            Ok(Some(ToolChoice::Named(function.require("name", name)?)))
        }
    }
}
