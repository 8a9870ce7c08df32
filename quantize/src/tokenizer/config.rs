//! The small configuration files beside a tokenizer: which tokens are special, whether BOS and
//! EOS are added, the chat templates, the sampling defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use yi_gguf::Metadata;

use super::MAX_CONFIG_BYTES;
use super::TokenizerError;
use super::vocabulary::AddedToken;
use crate::checkpoint::Folder;

/// The chat templates of a model, as Jinja source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    /// The template for ordinary conversations.
    pub default: Option<String>,
    /// Templates for other uses (`tool_use`, `rag`), by name.
    pub named: BTreeMap<String, String>,
}

impl ChatTemplates {
    /// Adds the `tokenizer.chat_template*` keys.
    ///
    /// # Errors
    /// A key that the metadata has already.
    pub(super) fn write_metadata(&self, metadata: &mut Metadata) -> Result<(), yi_gguf::Error> {
        if let Some(template) = &self.default {
            metadata.insert("tokenizer.chat_template", template.as_str())?;
        }
        for (name, template) in &self.named {
            metadata.insert(format!("tokenizer.chat_template.{name}"), template.as_str())?;
        }
        if !self.named.is_empty() {
            let names: Vec<String> = self.named.keys().cloned().collect();
            metadata.insert("tokenizer.chat_templates", names)?;
        }
        Ok(())
    }

    /// The templates of `tokenizer_config.json`; a file `chat_template.jinja` wins over the
    /// default one.
    fn load(folder: &Folder, config: Option<TemplateField>) -> Result<Self, TokenizerError> {
        let mut templates = ChatTemplates::default();
        match config {
            None => {}
            Some(TemplateField::One(template)) => templates.default = Some(template),
            Some(TemplateField::Named(list)) => {
                // The last of two templates with one name wins, as in a Python dictionary.
                for NamedTemplate { name, template } in list {
                    templates.named.insert(name, template);
                }
                templates.default = templates.named.remove("default");
            }
        }
        let template = folder.read_text_optional("chat_template.jinja", MAX_CONFIG_BYTES)?;
        if let Some(template) = template {
            templates.default = Some(template);
        }
        Ok(templates)
    }
}

/// What `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `config.json`
/// say about the tokenizer.
#[derive(Debug, Default)]
pub(super) struct TokenizerConfig {
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub bos: Option<NamedToken>,
    pub eos: Option<NamedToken>,
    pub pad: Option<NamedToken>,
    pub ids: ConfigIds,
    pub added: Vec<AddedToken>,
    /// The texts of `additional_special_tokens`.
    pub special: Vec<String>,
    pub chat_templates: ChatTemplates,
}

/// A special token by its text, and the file that names it.
#[derive(Debug, Clone)]
pub(super) struct NamedToken {
    pub file: PathBuf,
    pub text: String,
}

/// The special ids of `config.json`.
#[derive(Debug, Default)]
pub(super) struct ConfigIds {
    pub file: PathBuf,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

impl TokenizerConfig {
    pub(super) fn load(folder: &Folder) -> Result<Self, TokenizerError> {
        let (config_file, config) = read_json::<ConfigFile>(folder, "tokenizer_config.json")?;
        let config = config.unwrap_or_default();
        let (map_file, map) = read_json::<SpecialTokensMap>(folder, "special_tokens_map.json")?;
        let map = map.unwrap_or_default();
        let named = |first: Option<TokenField>, second: Option<TokenField>| {
            let token = |field: TokenField, file: &Path| NamedToken {
                file: file.to_owned(),
                text: field.into_text(),
            };
            let first = first.map(|field| token(field, &config_file));
            first.or_else(|| second.map(|field| token(field, &map_file)))
        };
        let mut added = Vec::new();
        let (added_file, listed) = read_json::<Pairs<u32>>(folder, "added_tokens.json")?;
        for (text, id) in listed.map(|pairs| pairs.0).unwrap_or_default() {
            added.push(AddedToken {
                id,
                special: super::vocabulary::is_bracketed(&text),
                text,
                file: added_file.clone(),
            });
        }
        let decoder = config.added_tokens_decoder.map(|pairs| pairs.0);
        for (key, entry) in decoder.unwrap_or_default() {
            let id = key.parse().map_err(|_| TokenizerError::UnsupportedJson {
                file: config_file.clone(),
                part: "a key of added_tokens_decoder",
                found: format!("{key:?}"),
                expected: "a token id",
            })?;
            added.push(AddedToken {
                id,
                text: entry.content,
                special: entry.special,
                file: config_file.clone(),
            });
        }
        let additional = [
            config.additional_special_tokens,
            map.additional_special_tokens,
        ];
        let additional = additional.into_iter().flatten();
        Ok(TokenizerConfig {
            add_bos: config.add_bos_token,
            add_eos: config.add_eos_token,
            bos: named(config.bos_token, map.bos_token),
            eos: named(config.eos_token, map.eos_token),
            pad: named(config.pad_token, map.pad_token),
            ids: ConfigIds::load(folder)?,
            added,
            special: additional.flatten().map(TokenField::into_text).collect(),
            chat_templates: ChatTemplates::load(folder, config.chat_template)?,
        })
    }
}

impl ConfigIds {
    fn load(folder: &Folder) -> Result<Self, TokenizerError> {
        let (file, ids) = read_json::<IdsFile>(folder, "config.json")?;
        let ids = ids.unwrap_or_default();
        let first = |ids: Option<IdField>| ids.and_then(|ids| ids.into_ids().first().copied());
        Ok(ConfigIds {
            file,
            bos: first(ids.bos_token_id),
            eos: first(ids.eos_token_id),
            pad: first(ids.pad_token_id),
        })
    }
}

/// `generation_config.json`: sampling defaults and the ids that end a generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Where the values come from.
    pub file: PathBuf,
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Number of most probable tokens to sample from.
    pub top_k: Option<i32>,
    /// Probability mass to sample from.
    pub top_p: Option<f32>,
    /// Factor that makes tokens of the recent text less probable.
    pub repetition_penalty: Option<f32>,
    /// Ids that end a generation, in the file's order.
    pub eos_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads the file; without one there are no defaults.
    ///
    /// # Errors
    /// A file that cannot be read or does not have the expected form.
    pub fn load(folder: &Folder) -> Result<Self, TokenizerError> {
        let (file, raw) = read_json::<GenerationFile>(folder, "generation_config.json")?;
        let raw = raw.unwrap_or_default();
        let numbers = [
            ("temperature", raw.temperature),
            ("top_p", raw.top_p),
            ("repetition_penalty", raw.repetition_penalty),
        ];
        for (key, value) in numbers {
            // As a recommendation in the output it would stop everyone who runs the file.
            if let Some(found) = value.filter(|x| !(x.is_finite() && *x >= 0.0)) {
                return Err(TokenizerError::SamplingNumber { file, key, found });
            }
        }
        Ok(GenerationConfig {
            file,
            temperature: raw.temperature,
            top_k: raw.top_k,
            top_p: raw.top_p,
            repetition_penalty: raw.repetition_penalty,
            eos_ids: raw.eos_token_id.map_or(Vec::new(), IdField::into_ids),
        })
    }

    /// Adds the `general.sampling.*` keys.
    ///
    /// # Errors
    /// A key that the metadata has already.
    pub fn write_metadata(&self, metadata: &mut Metadata) -> Result<(), yi_gguf::Error> {
        if let Some(top_k) = self.top_k {
            metadata.insert("general.sampling.top_k", top_k)?;
        }
        for (key, value) in [
            ("general.sampling.top_p", self.top_p),
            ("general.sampling.temp", self.temperature),
            ("general.sampling.penalty_repeat", self.repetition_penalty),
        ] {
            if let Some(value) = value {
                metadata.insert(key, value)?;
            }
        }
        Ok(())
    }
}

#[derive(Default, Deserialize)]
struct ConfigFile {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    bos_token: Option<TokenField>,
    eos_token: Option<TokenField>,
    pad_token: Option<TokenField>,
    additional_special_tokens: Option<Vec<TokenField>>,
    chat_template: Option<TemplateField>,
    added_tokens_decoder: Option<Pairs<AddedEntry>>,
}

#[derive(Default, Deserialize)]
struct SpecialTokensMap {
    bos_token: Option<TokenField>,
    eos_token: Option<TokenField>,
    pad_token: Option<TokenField>,
    additional_special_tokens: Option<Vec<TokenField>>,
}

#[derive(Default, Deserialize)]
struct IdsFile {
    bos_token_id: Option<IdField>,
    eos_token_id: Option<IdField>,
    pad_token_id: Option<IdField>,
}

#[derive(Default, Deserialize)]
struct GenerationFile {
    temperature: Option<f32>,
    top_k: Option<i32>,
    top_p: Option<f32>,
    repetition_penalty: Option<f32>,
    eos_token_id: Option<IdField>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a token's text, or an object with its content")]
enum TokenField {
    Text(String),
    Entry { content: String },
}

impl TokenField {
    fn into_text(self) -> String {
        match self {
            TokenField::Text(text) | TokenField::Entry { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct AddedEntry {
    pub content: String,
    #[serde(default)]
    pub special: bool,
}

/// An id or several; negative ones mean that there is none, as in LLaMA's `pad_token_id: -1`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a token id or a list of token ids")]
enum IdField {
    One(i64),
    Many(Vec<i64>),
}

impl IdField {
    /// The ids; one that no vocabulary can have becomes `u32::MAX`, to be refused with the rest.
    fn into_ids(self) -> Vec<u32> {
        let ids = match self {
            IdField::One(id) => vec![id],
            IdField::Many(ids) => ids,
        };
        let valid = ids.into_iter().filter(|&id| id >= 0);
        valid
            .map(|id| u32::try_from(id).unwrap_or(u32::MAX))
            .collect()
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a template or a list of named templates")]
enum TemplateField {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// A JSON object as a list of its entries, so that a repeated key is not lost.
pub(super) struct Pairs<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

/// A JSON file's path and its content, or None where there is no such file.
fn read_json<T: DeserializeOwned>(
    folder: &Folder,
    name: &str,
) -> Result<(PathBuf, Option<T>), TokenizerError> {
    let file = folder.join(name);
    let content = folder.read_optional(name, MAX_CONFIG_BYTES)?;
    let content = content.map(|bytes| parse_json(&file, &bytes)).transpose()?;
    Ok((file, content))
}

/// Parses JSON; serde_json refuses more than 128 levels of nesting.
pub(super) fn parse_json<'de, T: Deserialize<'de>>(
    file: &Path,
    bytes: &'de [u8],
) -> Result<T, TokenizerError> {
    serde_json::from_slice(bytes).map_err(|source| TokenizerError::Json {
        file: file.to_owned(),
        source,
    })
}
