//! The YAML front matter of a model card (`README.md`): name, licence, tags, languages.
//!
//! Only what such cards hold at their top level is read: `key: scalar`, `key: [a, b]` and lists of
//! `- scalar` lines. A card says nothing that a conversion needs, so what does not have this form
//! is passed over and never an error.

use yi_gguf::Metadata;

use super::MAX_CONFIG_BYTES;
use super::TokenizerError;
use crate::checkpoint::Folder;

/// What a model card says about a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelCard {
    /// The model's name (`model_name`).
    pub name: Option<String>,
    /// The licence's identifier (`apache-2.0`, `other`).
    pub license: Option<String>,
    /// The licence's name, where the identifier is `other`.
    pub license_name: Option<String>,
    /// Where the licence's text is: a URL or a file of the checkpoint.
    pub license_link: Option<String>,
    /// Free tags.
    pub tags: Vec<String>,
    /// ISO 639 codes.
    pub languages: Vec<String>,
}

impl ModelCard {
    /// Reads the card; without one it is empty.
    ///
    /// # Errors
    /// A `README.md` that is there but cannot be read.
    pub fn load(folder: &Folder) -> Result<Self, TokenizerError> {
        let bytes = folder.read_optional("README.md", MAX_CONFIG_BYTES)?;
        Ok(bytes.map_or_else(Self::default, |bytes| {
            Self::parse(&String::from_utf8_lossy(&bytes))
        }))
    }

    /// Adds the `general.license*`, `general.tags` and `general.languages` keys.
    ///
    /// # Errors
    /// A key that the metadata has already.
    pub fn write_metadata(&self, metadata: &mut Metadata) -> Result<(), yi_gguf::Error> {
        for (key, value) in [
            ("general.license", &self.license),
            ("general.license.name", &self.license_name),
            ("general.license.link", &self.license_link),
        ] {
            if let Some(value) = value {
                metadata.insert(key, value.as_str())?;
            }
        }
        for (key, values) in [
            ("general.tags", &self.tags),
            ("general.languages", &self.languages),
        ] {
            if !values.is_empty() {
                metadata.insert(key, values.clone())?;
            }
        }
        Ok(())
    }

    fn parse(text: &str) -> Self {
        let mut card = ModelCard::default();
        let text = text.trim_start_matches('\u{feff}');
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return card;
        }
        let lines: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
        for (at, line) in lines.iter().enumerate() {
            if line.starts_with([' ', '\t', '-', '#']) {
                continue;
            }
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            let values = match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
                Some(list) => list.split(',').filter_map(scalar).collect(),
                None if value.is_empty() || value.starts_with('#') => list_items(&lines[at + 1..]),
                None => Vec::from_iter(scalar(value)),
            };
            match key.trim() {
                "model_name" => card.name = values.into_iter().next(),
                "license" => card.license = values.into_iter().next(),
                "license_name" => card.license_name = values.into_iter().next(),
                "license_link" => card.license_link = values.into_iter().next(),
                "tags" => card.tags = values,
                "language" => card.languages = values,
                _ => {}
            }
        }
        card
    }
}

/// The `- item` lines up to the next key.
fn list_items(lines: &[&str]) -> Vec<String> {
    let trimmed = lines.iter().map(|line| line.trim());
    let items = trimmed.filter(|line| !line.is_empty() && !line.starts_with('#'));
    items
        .map_while(|line| line.strip_prefix('-'))
        .filter_map(scalar)
        .collect()
}

/// A scalar without its quotes or trailing comment; None where it is empty, a block, or begins a collection that
/// goes on in the lines below.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    let quoted = |quote| {
        let (inner, _) = text.strip_prefix(quote)?.split_once(quote)?;
        Some(inner)
    };
    let plain = || text.split(" #").next().unwrap_or(text).trim_end();
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or_else(plain);
    let block = matches!(value, "|" | ">" | "|-" | ">-" | "null" | "~");
    (!value.is_empty() && !block && !text.starts_with(['[', '{'])).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_front_matter_of_a_card() {
        let card = ModelCard::parse(
            "---\nmodel_name: Yi Demo\nlicense: other # see below\nlicense_name: 'yi-license'\nlicense_link: LICENSE\n\
             widget:\n  - text: \"license: no\"\ntags: [chat, \"base\"]\nlanguage:\n- en\n# and\n- zh\n---\n\
             license: none\n",
        );
        assert_eq!(card.name.as_deref(), Some("Yi Demo"));
        assert_eq!(card.license.as_deref(), Some("other"));
        assert_eq!(card.license_name.as_deref(), Some("yi-license"));
        assert_eq!(card.license_link.as_deref(), Some("LICENSE"));
        assert_eq!(card.tags, ["chat", "base"]);
        assert_eq!(card.languages, ["en", "zh"]);
    }

    #[test]
    fn a_list_over_several_lines_is_passed_over() {
        let card = ModelCard::parse("---\ntags: [\n  chat,\n]\nlicense: [mit]\n---\n");
        assert!(card.tags.is_empty(), "{:?}", card.tags);
        assert_eq!(card.license.as_deref(), Some("mit"));
    }

    #[test]
    fn a_readme_without_front_matter_is_an_empty_card() {
        assert_eq!(ModelCard::parse("# Yi\nlicense: x\n"), ModelCard::default());
        assert_eq!(ModelCard::parse(""), ModelCard::default());
    }
}
