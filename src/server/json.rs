//! Reading a request's JSON: every value is checked where it is read, and an error names its field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::api_error::ApiError;

/// A JSON object whose fields are taken one after another. Those that nobody takes are ignored; null is the
/// same as absent.
#[derive(Debug, Clone)]
pub struct Fields {
    map: Map<String, Value>,
    /// The object's place: empty for the whole body.
    path: String,
}

impl Fields {
    /// The body.
    pub fn body(value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Fields {
                map,
                path: String::new(),
            }),
            other => Err(ApiError::malformed(format!(
                "the body is {}; it must be an object",
                kind(&other)
            ))),
        }
    }

    /// An object inside.
    pub fn new(value: Value, path: impl Into<String>) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Fields { map, path }),
            other => Err(wrong(&path, &other, "an object")),
        }
    }

    /// The path of a field.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Takes a field, whatever it is.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Looks at a field.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there.
    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// What is left.
    pub fn into_rest(self) -> Map<String, Value> {
        self.map
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.path(name), &other, "a string")),
        }
    }

    pub fn bool(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(&self.path(name), &other, "true or false")),
        }
    }

    /// A number within the range.
    pub fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(Some(number as f32)),
            _ => {
                let expected = format!("a number from {} to {}", range.start(), range.end());
                Err(wrong(&self.path(name), &value, &expected))
            }
        }
    }

    /// A whole number within the range. `3.0` is one, too.
    pub fn whole(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match whole(&value) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                Err(wrong(&self.path(name), &value, &expected))
            }
        }
    }

    /// A whole number from `min` on, as a count.
    pub fn count(&mut self, name: &str, min: i64) -> Result<Option<usize>, ApiError> {
        let number = self.whole(name, min..=i64::from(i32::MAX))?;
        Ok(number.and_then(|number| usize::try_from(number).ok()))
    }

    pub fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong(&self.path(name), &other, "an array")),
        }
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        let path = self.path(name);
        self.take(name)
            .map(|value| Fields::new(value, path))
            .transpose()
    }

    /// One of a few words.
    pub fn choice<T: Copy>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let found = choices
            .iter()
            .find(|(word, _)| value.as_str() == Some(word));
        match found {
            Some(&(_, choice)) => Ok(Some(choice)),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(wrong(&self.path(name), &value, &words.join(" or ")))
            }
        }
    }

    /// Refuses the absence of a field.
    pub fn require<T>(&self, name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| ApiError::missing(self.path(name)))
    }
}

/// A whole number, also when it is written as `3.0`.
pub fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
    })
}

/// An error about a value: what it is, and what it should be.
pub fn wrong(path: &str, found: &Value, expected: &str) -> ApiError {
    ApiError::invalid(
        path,
        format!("{path} is {}; it must be {expected}", kind(found)),
    )
}

/// A value in a few words: text may be long, and is not for error messages.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.len() <= 40 => format!("{text:?}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
