//! Converts prompts to token ids with CLIP's byte-level BPE, read from the model's files.

mod files;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{self, Lowercase, NFC, Replace};
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::pre_tokenizers::{self, byte_level::ByteLevel, split::Split};
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;

use crate::error::{Error, Result};
use crate::files::Location;
use files::Files;

/// A tokenised prompt, the input of the text encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids `[positions]`: BOS, the text, EOS, then padding.
    pub ids: Vec<u32>,
    /// Number of ids before the padding, BOS and EOS included. The padding is masked.
    pub len: usize,
    /// If the prompt was too long: the part of it that was cut off.
    pub cut: Option<String>,
}

/// CLIP's tokenizer with the special tokens and the sequence length of one model.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    bpe: tokenizers::Tokenizer,
    path: PathBuf,
    positions: usize,
    bos: u32,
    eos: u32,
    pad: u32,
    /// Tokens that stand for others: what the tokenizer calls each, and what it stands for.
    learned: HashMap<u32, Range<u32>>,
    /// How many bytes behind a place of a word may change how the word is merged before it.
    reach: usize,
}

impl Tokenizer {
    /// Reads the tokenizer of a text encoder that has `positions` positions
    /// (77 for CLIP) and `vocabulary` token embeddings (49,408 for CLIP).
    ///
    /// `location` is a `tokenizer.json`, or a folder with the files of a tokenizer, which are read as `transformers`
    /// reads them for its class `CLIPTokenizer`; [`files`] has the rules.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] if there are no files, [`Error::Disk`] if they are unreadable, and
    /// [`Error::Model`] if they are invalid, contain ids without an embedding, or ask for padding or a length that
    /// is not implemented.
    pub fn open(location: impl Into<Location>, positions: usize, vocabulary: usize) -> Result<Self> {
        let location = &location.into();
        if positions < 2 {
            return Err(bad(location.path(), "a text encoder of at least 2 positions", positions));
        }
        let mut files = Files::read(location, positions, vocabulary)?;
        // A character of a token stands for a byte of text.
        let longest = files.vocab.keys().map(|token| token.chars().count()).max().unwrap_or(0);
        let reach = files.merges.len().saturating_mul(longest);
        let bpe = pipeline(&mut files).map_err(|e| bad(&files.path, "a tokenizer", e))?;
        let added = bpe.get_added_tokens_decoder();
        if let Some((id, token)) = added.iter().filter(|&(&id, _)| id as usize >= vocabulary).min_by_key(|&(&id, _)| id)
        {
            let found = format!("`{}` = {id}", token.content);
            return Err(bad(location.path(), format!("token ids below {vocabulary}"), found));
        }
        let id = |token: &str| {
            let found =
                || bad(location.path(), format!("the special token `{token}` in the vocabulary"), "no such token");
            bpe.token_to_id(token).ok_or_else(found)
        };
        let [bos, eos, pad, _] = &files.special;
        let (bos, eos, pad) = (id(bos)?, id(eos)?, id(pad)?);
        Ok(Self { bpe, path: files.path, positions, bos, eos, pad, learned: HashMap::new(), reach })
    }

    /// Adds tokens by any of several names, each of which becomes ids that are rows of the table of embeddings. They are found
    /// as `transformers` finds tokens that are added to it: before a text is cut into words, in lower case, and inside of words
    /// too; but names that begin with `embedding:` only as whole words.
    ///
    /// # Errors
    /// [`Error::Model`] if the tokenizers library refuses one.
    pub fn learn(&mut self, tokens: &[(Vec<String>, Range<u32>)]) -> Result<()> {
        for (names, rows) in tokens {
            for name in names {
                let token = tokenizers::AddedToken::from(name.clone(), false);
                let token = token.single_word(name.starts_with("embedding:"));
                self.bpe.add_tokens([token]).map_err(|e| bad(&self.path, format!("the new token `{name}`"), e))?;
                self.learned.extend(self.id(name).map(|id| (id, rows.clone())));
            }
        }
        Ok(())
    }

    /// What the tokenizer calls a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.bpe.token_to_id(token)
    }

    /// The ids of all tokens of the vocabulary in which a regular expression matches, in order.
    ///
    /// # Errors
    /// What is wrong with the expression.
    pub fn matching(&self, pattern: &str) -> std::result::Result<Vec<u32>, String> {
        let regex = fancy_regex::Regex::new(pattern).map_err(|e| e.to_string())?;
        let mut ids = Vec::new();
        for (token, id) in self.bpe.get_vocab(true) {
            if regex.is_match(&token).map_err(|e| e.to_string())? {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Token ids of a prompt, truncated to the sequence length.
    ///
    /// The text is normalised (NFC), runs of white space become one space, and letters
    /// lower case. A literal `<|endoftext|>` becomes that token, as in `transformers`.
    ///
    /// # Errors
    /// [`Error::Model`] if the text cannot be encoded with the model's files.
    pub fn encode(&self, prompt: &str) -> Result<Encoding> {
        let room = self.positions - 2;
        let head = self.head(prompt);
        let mut text = self.pieces(head)?;
        if text.len() <= room && head.len() < prompt.len() {
            text = self.pieces(prompt)?;
        }
        let cut = text.get(room).map(|&(_, start)| prompt[prompt.floor_char_boundary(start)..].trim().to_owned());
        text.truncate(room);
        let ids: Vec<u32> = text.into_iter().map(|(id, _)| id).collect();
        Ok(Encoding { cut, ..self.enclose(&ids) })
    }

    /// All tokens of a text, without those that begin and end it.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.pieces(text)?.into_iter().map(|(id, _)| id).collect())
    }

    /// All tokens of a text, and the byte at which each begins.
    fn pieces(&self, text: &str) -> Result<Vec<(u32, usize)>> {
        let encoded = self.bpe.encode(text, false);
        let encoded = encoded.map_err(|e| bad(&self.path, "a tokenizer that can encode any text", e))?;
        let meant = |(&id, &(start, _)): (&u32, &(usize, usize))| {
            self.learned.get(&id).cloned().unwrap_or(id..id + 1).map(move |id| (id, start))
        };
        Ok(encoded.get_ids().iter().zip(encoded.get_offsets()).flat_map(meant).collect())
    }

    /// Tokens between those that begin and end a text, padded to the sequence length.
    ///
    /// # Panics
    /// If there are more than `positions − 2`.
    pub fn enclose(&self, tokens: &[u32]) -> Encoding {
        let len = tokens.len() + 2;
        assert!(len <= self.positions, "{len} tokens of {}", self.positions);
        let mut ids = Vec::with_capacity(self.positions);
        ids.push(self.bos);
        ids.extend(tokens);
        ids.push(self.eos);
        ids.resize(self.positions, self.pad);
        Encoding { ids, len, cut: None }
    }

    /// The sequence length.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The beginning of a prompt, about 64 KiB, which nearly always fills the sequence. Words are
    /// tokenised independently, so these tokens are the first tokens of the whole prompt.
    ///
    /// A word is cut where it goes on for longer than its end can matter: a merge depends on what those of lower ranks
    /// have done behind it, and each of them reaches at most one token further.
    fn head<'a>(&self, prompt: &'a str) -> &'a str {
        let start = prompt.floor_char_boundary(64 << 10);
        let end = prompt[start..].find(char::is_whitespace).map_or(prompt.len(), |end| start + end);
        &prompt[..end.min(prompt.floor_char_boundary(start + self.reach))]
    }

    /// The padding id: EOS in the published Stable Cascade files, 0 in some others.
    pub fn pad(&self) -> u32 {
        self.pad
    }
}

/// CLIP's pipeline from text to tokens, with the vocabulary and the tokens of `files`.
///
/// Source: `CLIPTokenizer`, tokenization_clip.py in `transformers`.
fn pipeline(files: &mut Files) -> tokenizers::Result<tokenizers::Tokenizer> {
    const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let vocab: Vocab = std::mem::take(&mut files.vocab).into_iter().collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, std::mem::take(&mut files.merges))
        .unk_token(files.special[3].clone())
        .end_of_word_suffix("</w>".to_owned())
        .build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    let space = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    tokenizer.with_normalizer(Some(normalizers::Sequence::new(vec![NFC.into(), space.into(), Lowercase.into()])))?;
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizers::sequence::Sequence::new(vec![
        words.into(),
        ByteLevel::new(false, true, true).into(),
    ])));
    tokenizer.add_tokens(std::mem::take(&mut files.added))?;
    tokenizer.set_encode_special_tokens(files.split_special_tokens);
    Ok(tokenizer)
}

fn bad(path: &Path, expected: impl Into<String>, found: impl ToString) -> Error {
    let found = format!("{}; use the tokenizer files that the text encoder came with", found.to_string());
    Error::Model { path: path.to_owned(), expected: expected.into(), found }
}
