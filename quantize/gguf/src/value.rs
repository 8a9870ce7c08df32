//! Typed metadata: values, arrays and the ordered map from keys to them.

use std::collections::HashMap;
use std::fmt;

use crate::error::{Error, shown};

/// Longest key, in bytes; the GGUF specification's own limit.
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Most keys in a file. Real files have some fifty; an entry takes far more memory than the 14
/// bytes that it can take in a file, so the number is bounded.
pub const MAX_KEYS: u64 = 1 << 16;
/// Most strings in a file's metadata. The largest vocabularies have 2^18 tokens and as many
/// merges; an empty string takes more memory than its 8 bytes in a file.
pub const MAX_STRINGS: u64 = 1 << 22;

/// Defines the scalar kinds once: the two enums, the conversions and the type names follow.
macro_rules! kinds {
    ($($variant:ident($ty:ty) = $id:literal, $name:literal, $array_name:literal;)+) => {
        /// A metadata value. Arrays of arrays do not exist: llama.cpp refuses them, so do we.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // the variants are the GGUF types by name
        pub enum Value { $($variant($ty),)+ Array(Array) }

        /// A metadata array; all elements have one type.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Array { $($variant(Vec<$ty>),)+ }

        /// The type of a metadata value or of an array's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Scalar { $($variant = $id,)+ }

        impl Scalar {
            /// The id that a GGUF file stores.
            pub const fn id(self) -> u32 { self as u32 }

            /// The type with this id; None for 9 (array) and for unknown ids.
            pub const fn from_id(id: u32) -> Option<Scalar> {
                match id { $($id => Some(Scalar::$variant),)+ _ => None }
            }
        }

        impl ValueType {
            /// The type's name: `u32`, `string`, `array of f32`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ValueType::Scalar(Scalar::$variant) => $name,)+
                    $(ValueType::Array(Scalar::$variant) => $array_name,)+
                }
            }
        }

        impl Value {
            /// The value's type.
            pub const fn value_type(&self) -> ValueType {
                match self {
                    $(Value::$variant(_) => ValueType::Scalar(Scalar::$variant),)+
                    Value::Array(array) => ValueType::Array(array.element_type()),
                }
            }
        }

        impl Array {
            /// The elements' type.
            pub const fn element_type(&self) -> Scalar {
                match self { $(Array::$variant(_) => Scalar::$variant,)+ }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(Array::$variant(items) => items.len(),)+ }
            }
        }

        $(
            impl From<$ty> for Value {
                fn from(value: $ty) -> Value { Value::$variant(value) }
            }
            impl From<Vec<$ty>> for Value {
                fn from(items: Vec<$ty>) -> Value { Value::Array(Array::$variant(items)) }
            }
        )+
    };
}

kinds! {
    U8(u8) = 0, "u8", "array of u8";
    I8(i8) = 1, "i8", "array of i8";
    U16(u16) = 2, "u16", "array of u16";
    I16(i16) = 3, "i16", "array of i16";
    U32(u32) = 4, "u32", "array of u32";
    I32(i32) = 5, "i32", "array of i32";
    F32(f32) = 6, "f32", "array of f32";
    Bool(bool) = 7, "bool", "array of bool";
    String(String) = 8, "string", "array of string";
    U64(u64) = 10, "u64", "array of u64";
    I64(i64) = 11, "i64", "array of i64";
    F64(f64) = 12, "f64", "array of f64";
}

/// The id that marks an array in a GGUF file.
pub const ARRAY_ID: u32 = 9;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// A single value.
    Scalar(Scalar),
    /// An array of values of one type.
    Array(Scalar),
}

impl ValueType {
    /// The id that a GGUF file stores: 9 for every array, whose element type follows it.
    pub const fn id(self) -> u32 {
        match self {
            ValueType::Scalar(scalar) => scalar.id(),
            ValueType::Array(_) => ARRAY_ID,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Value {
        Value::Array(array)
    }
}

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The metadata of a GGUF file: unique keys in file order, each with a typed value.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    positions: HashMap<String, usize>,
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Metadata) -> bool {
        self.entries == other.entries // the positions follow from the entries
    }
}

impl Metadata {
    /// No keys.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Adds a key at the end.
    ///
    /// # Errors
    /// A key that is empty, longer than [`MAX_KEY_BYTES`], contains NUL or is there already.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Result<(), Error> {
        let key = key.into();
        if key.is_empty() {
            return Err(Error::EmptyKey {
                index: self.entries.len() as u64,
            });
        }
        if key.len() as u64 > MAX_KEY_BYTES {
            return Err(Error::KeyTooLong {
                index: self.entries.len() as u64,
                bytes: key.len() as u64,
            });
        }
        if key.contains('\0') {
            return Err(Error::KeyHasNul { key: shown(&key) });
        }
        if self.positions.contains_key(&key) {
            return Err(Error::DuplicateKey { key: shown(&key) });
        }
        self.positions.insert(key.clone(), self.entries.len());
        self.entries.push((key, value.into()));
        Ok(())
    }

    /// Sets a key as llama.cpp does: one that is there already moves to the end.
    ///
    /// # Errors
    /// Those of [`insert`](Metadata::insert), but for a key that is there already.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Result<(), Error> {
        let key = key.into();
        self.remove(&key);
        self.insert(key, value)
    }

    /// Removes a key; its value, if it was there.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.positions.remove(key)?;
        for position in self.positions.values_mut().filter(|p| **p > at) {
            *position -= 1;
        }
        Some(self.entries.remove(at).1)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.positions.get(key).map(|&at| &self.entries[at].1)
    }

    /// The keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Getters that want exactly one type: None if the key is absent, an error naming the key, the
/// expected and the found type if it has another.
macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident -> $ty:ty, $expected:expr, $pattern:pat => $result:expr;)+) => {
        impl Metadata {
            $(
                $(#[$doc])*
                pub fn $name(&self, key: &str) -> Result<Option<$ty>, Error> {
                    match self.get(key) {
                        None => Ok(None),
                        Some($pattern) => Ok(Some($result)),
                        Some(other) => Err(Error::WrongType {
                            key: shown(key),
                            expected: $expected,
                            found: other.value_type(),
                        }),
                    }
                }
            )+
        }
    };
}

getters! {
    /// A `u32`.
    u32 -> u32, "u32", Value::U32(x) => *x;
    /// An `f32`.
    f32 -> f32, "f32", Value::F32(x) => *x;
    /// A `bool`.
    bool -> bool, "bool", Value::Bool(x) => *x;
    /// A string.
    str -> &str, "string", Value::String(x) => x.as_str();
    /// An array of strings.
    strings -> &[String], "array of string", Value::Array(Array::String(x)) => x.as_slice();
    /// An array of `f32`.
    f32s -> &[f32], "array of f32", Value::Array(Array::F32(x)) => x.as_slice();
    /// An array of `i32`.
    i32s -> &[i32], "array of i32", Value::Array(Array::I32(x)) => x.as_slice();
    /// An array of `u32`.
    u32s -> &[u32], "array of u32", Value::Array(Array::U32(x)) => x.as_slice();
}

impl Metadata {
    /// An integer of any width that is not negative.
    ///
    /// # Errors
    /// A value of another type, or a negative one.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let (unsigned, signed) = match *value {
            Value::U8(x) => (Some(x.into()), 0),
            Value::U16(x) => (Some(x.into()), 0),
            Value::U32(x) => (Some(x.into()), 0),
            Value::U64(x) => (Some(x), 0),
            Value::I8(x) => (u64::try_from(x).ok(), x.into()),
            Value::I16(x) => (u64::try_from(x).ok(), x.into()),
            Value::I32(x) => (u64::try_from(x).ok(), x.into()),
            Value::I64(x) => (u64::try_from(x).ok(), x),
            _ => {
                return Err(Error::WrongType {
                    key: shown(key),
                    expected: "unsigned integer",
                    found: value.value_type(),
                });
            }
        };
        match unsigned {
            Some(x) => Ok(Some(x)),
            None => Err(Error::NegativeValue {
                key: shown(key),
                found: signed,
            }),
        }
    }
}
