//! llama-bench's lists: `1,2,4`, `1-4`, `16-64+16`, `1-8*2`.

use std::str::FromStr;

use crate::llama::GpuLayers;

/// The most values that one list may have.
const MAX_VALUES: usize = 1000;

/// Values of one flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

/// Numbers and ranges of them, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers(pub Vec<u32>);

impl<T: FromStr<Err = String>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(List)
    }
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut values = Vec::new();
        for item in text.split(',') {
            let malformed =
                || format!("{item:?} is no number or range like 1-8, 16-64+16 or 1-8*2");
            let number = |text: &str| match text.parse::<u32>() {
                Ok(n) if i32::try_from(n).is_ok() => Ok(n),
                _ => Err(malformed()),
            };
            let (first, rest) = item
                .split_once('-')
                .map_or((item, None), |(a, b)| (a, Some(b)));
            let first = number(first)?;
            let Some(rest) = rest else {
                values.push(first);
                continue;
            };
            let (last, step, multiply) = if let Some((last, step)) = rest.split_once('+') {
                (number(last)?, number(step)?, false)
            } else if let Some((last, factor)) = rest.split_once('*') {
                (number(last)?, number(factor)?, true)
            } else {
                (number(rest)?, 1, false)
            };
            let mut value = first;
            while value <= last {
                values.push(value);
                let next = if multiply {
                    value.saturating_mul(step)
                } else {
                    value.saturating_add(step)
                };
                if next <= value {
                    return Err(format!("the range {item:?} never ends"));
                }
                if values.len() > MAX_VALUES {
                    return Err(format!("{text:?} has more than {MAX_VALUES} values"));
                }
                value = next;
            }
        }
        Ok(Numbers(values))
    }
}

/// Numbers of layers on GPUs, and `auto` and `all` among them, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerCounts(pub Vec<GpuLayers>);

impl FromStr for LayerCounts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for item in text.split(',') {
            match item.parse() {
                Ok(layers) => all.push(layers),
                Err(_) => {
                    let numbers = item.parse::<Numbers>()?;
                    all.extend(numbers.0.into_iter().map(GpuLayers::Count));
                }
            }
        }
        Ok(LayerCounts(all))
    }
}

/// A prompt's length and the number of tokens generated after it: `512,128`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptAndGen(pub u32, pub u32);

impl FromStr for PromptAndGen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(',').map(|(p, n)| (p.parse(), n.parse())) {
            Some((Ok(p), Ok(n))) if i32::try_from(p).is_ok() && i32::try_from(n).is_ok() => {
                Ok(PromptAndGen(p, n))
            }
            _ => Err("it is two numbers, as in 512,128".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_llama_benchs() {
        for (text, values) in [
            ("1,2,4", &[1, 2, 4][..]),
            ("1-3", &[1, 2, 3]),
            ("16-64+16,5", &[16, 32, 48, 64, 5]),
            ("1-9*2", &[1, 2, 4, 8]),
            ("3-1", &[]),
        ] {
            assert_eq!(text.parse(), Ok(Numbers(values.to_vec())), "{text}");
        }
        for text in [
            "",
            "1,",
            "-1",
            "1-",
            "x",
            "0-8*2",
            "1-2+0",
            "1-100000",
            "4294967295",
        ] {
            assert!(text.parse::<Numbers>().is_err(), "{text}");
        }
        use GpuLayers::{All, Auto, Count};
        let layers = LayerCounts(vec![Auto, Count(0), Count(10), Count(20), All]);
        assert_eq!("auto,0,10-20+10,all".parse(), Ok(layers));
        assert_eq!("-1".parse(), Ok(LayerCounts(vec![Auto])));
        assert!("auto,".parse::<LayerCounts>().is_err());
        assert!("many".parse::<LayerCounts>().is_err());
        assert_eq!("512,128".parse(), Ok(PromptAndGen(512, 128)));
        assert!("512".parse::<PromptAndGen>().is_err());
        assert!("1,2,3".parse::<PromptAndGen>().is_err());
    }
}
