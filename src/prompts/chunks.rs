//! From pieces of text to chunks of tokens, each as long as the text encoder takes.

use super::Syntax;
use super::parse::Piece;
use crate::error::{Error, Result};
use crate::tokenizer::{Encoding, Tokenizer};

/// Most chunks of a prompt.
pub(super) const MOST: usize = 64;

/// WebUI does not divide a clause whose comma is at most as many tokens before the end of a chunk.
const CLAUSE: usize = 20;
/// ComfyUI does not divide words of fewer tokens.
const WORD: usize = 8;

/// A text for the encoder, with a weight for each of its positions.
pub(super) struct Chunk {
    pub encoding: Encoding,
    pub weights: Vec<f32>,
}

/// The chunks of a prompt, one at least.
pub(super) fn of(tokenizer: &Tokenizer, pieces: &[Piece], syntax: Syntax) -> Result<Vec<Chunk>> {
    let mut filling = Filling { room: tokenizer.positions() - 2, done: Vec::new(), now: Vec::new() };
    for piece in pieces {
        let Piece::Text(text, weight) = piece else {
            filling.next_chunk();
            continue;
        };
        match syntax {
            Syntax::Plain | Syntax::WebUi => {
                let comma = tokenizer.tokens(",")?.first().copied();
                for id in tokenizer.tokens(text)? {
                    filling.push_clause((id, *weight), comma);
                }
            }
            Syntax::ComfyUi => {
                for word in text.split([' ', '\n']).filter(|word| !word.is_empty()) {
                    let tokens: Vec<_> = tokenizer.tokens(word)?.into_iter().map(|id| (id, *weight)).collect();
                    filling.push_word(&tokens);
                }
            }
        }
    }
    if !filling.now.is_empty() || filling.done.is_empty() {
        filling.next_chunk();
    }
    if filling.done.len() > MOST {
        return Err(Error::Request {
            what: "prompts".into(),
            expected: format!("at most {MOST} chunks of {} tokens in a prompt", filling.room),
            found: filling.done.len().to_string(),
        });
    }
    let chunk = |tokens: Vec<(u32, f32)>| {
        let encoding = tokenizer.enclose(&tokens.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        let mut weights = vec![1.0; encoding.ids.len()];
        weights[1..].iter_mut().zip(&tokens).for_each(|(weight, token)| *weight = token.1);
        Chunk { encoding, weights }
    };
    Ok(filling.done.into_iter().map(chunk).collect())
}

/// An empty chunk.
pub(super) fn empty(tokenizer: &Tokenizer) -> Encoding {
    tokenizer.enclose(&[])
}

/// Chunks that are full, and the one that is being filled.
struct Filling {
    /// Tokens of a chunk, without those that begin and end it.
    room: usize,
    done: Vec<Vec<(u32, f32)>>,
    now: Vec<(u32, f32)>,
}

impl Filling {
    fn next_chunk(&mut self) {
        self.done.push(std::mem::take(&mut self.now));
    }

    /// Adds a token. Where the chunk is full, what follows its last comma goes to the next one with it.
    fn push_clause(&mut self, token: (u32, f32), comma: Option<u32>) {
        if self.now.len() == self.room {
            let last = self.now.iter().rposition(|(id, _)| Some(*id) == comma);
            let clause = last.map(|at| at + 1).filter(|start| self.room - start < CLAUSE && Some(token.0) != comma);
            let moved = clause.map_or(Vec::new(), |start| self.now.split_off(start));
            self.next_chunk();
            self.now = moved;
        }
        self.now.push(token);
    }

    /// Adds the tokens of a word, which are in one chunk unless there are many.
    fn push_word(&mut self, tokens: &[(u32, f32)]) {
        if tokens.len() < WORD && self.now.len() + tokens.len() > self.room {
            self.next_chunk();
        }
        for token in tokens {
            if self.now.len() == self.room {
                self.next_chunk();
            }
            self.now.push(*token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling(room: usize) -> Filling {
        Filling { room, done: Vec::new(), now: Vec::new() }
    }

    fn ids(tokens: &[(u32, f32)]) -> Vec<u32> {
        tokens.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn a_clause_moves_to_the_next_chunk_as_a_whole() {
        const COMMA: u32 = 0;
        let mut filling = filling(4);
        [1, 2, COMMA, 3, 4, 5].into_iter().for_each(|id| filling.push_clause((id, 1.0), Some(COMMA)));
        assert_eq!((ids(&filling.done[0]), ids(&filling.now)), (vec![1, 2, COMMA], vec![3, 4, 5]));
        [6, 7].into_iter().for_each(|id| filling.push_clause((id, 1.0), Some(COMMA)));
        assert_eq!((ids(&filling.done[1]), ids(&filling.now)), (vec![3, 4, 5, 6], vec![7]));
    }

    #[test]
    fn a_word_is_not_divided_unless_it_is_long() {
        let mut filling = filling(4);
        let word = |ids: &[u32]| ids.iter().map(|id| (*id, 1.0)).collect::<Vec<_>>();
        filling.push_word(&word(&[1, 2, 3]));
        filling.push_word(&word(&[4, 5]));
        assert_eq!((ids(&filling.done[0]), ids(&filling.now)), (vec![1, 2, 3], vec![4, 5]));
        filling.push_word(&word(&[6, 7, 8, 9, 10, 11, 12, 13]));
        assert_eq!(
            (ids(&filling.done[1]), ids(&filling.done[2]), ids(&filling.now)),
            (vec![4, 5, 6, 7], vec![8, 9, 10, 11], vec![12, 13])
        );
    }
}
