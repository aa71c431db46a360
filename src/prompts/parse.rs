//! From a prompt to pieces of text with weights.

use super::Syntax;

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Text with its weight.
    Text(String, f32),
    /// What follows is in another chunk.
    Break,
}

/// How much stronger parentheses make a text.
const STRONGER: f32 = 1.1;

/// The pieces of a prompt, neighbours of the same weight as one.
///
/// Parentheses that are not closed end with the prompt; those that were not opened are text.
///
/// Sources: `parse_prompt_attention` in Stable Diffusion WebUI, where the factors of nested parentheses are multiplied;
/// `token_weights` in ComfyUI, where a number takes the place of those further out.
pub(super) fn parse(prompt: &str, syntax: Syntax) -> Vec<Piece> {
    match syntax {
        Syntax::Plain => vec![Piece::Text(prompt.to_owned(), 1.0)],
        Syntax::WebUi | Syntax::ComfyUi => Parser::new(syntax).parse(prompt),
    }
}

struct Parser {
    /// Whether brackets mean anything.
    brackets: bool,
    /// Whether a number takes the place of factors further out.
    absolute: bool,
    pieces: Vec<Piece>,
    /// For every piece, whether its weight is final.
    settled: Vec<bool>,
    /// For every open parenthesis, or bracket: whether it is one, and the index of the first piece in it.
    open: Vec<(char, usize)>,
}

impl Parser {
    fn new(syntax: Syntax) -> Self {
        let (brackets, absolute) = (syntax == Syntax::WebUi, syntax == Syntax::ComfyUi);
        Self { brackets, absolute, pieces: Vec::new(), settled: Vec::new(), open: Vec::new() }
    }

    fn parse(mut self, prompt: &str) -> Vec<Piece> {
        let mut rest = prompt;
        while let Some(c) = rest.chars().next() {
            let mut next = &rest[c.len_utf8()..];
            match c {
                '\\' => match next.chars().next().filter(|&escaped| self.is_special(escaped) || escaped == '\\') {
                    Some(escaped) => {
                        self.text(&next[..escaped.len_utf8()]);
                        next = &next[escaped.len_utf8()..];
                    }
                    None => self.text("\\"),
                },
                '(' => self.open.push(('(', self.pieces.len())),
                '[' if self.brackets => self.open.push(('[', self.pieces.len())),
                ':' => match weight(next).filter(|_| self.open.last().is_some_and(|(kind, _)| *kind == '(')) {
                    Some((weight, len)) => {
                        self.close(weight, self.absolute);
                        next = &next[len..];
                    }
                    None => self.text(":"),
                },
                ')' if self.open.last().is_some_and(|(kind, _)| *kind == '(') => self.close(STRONGER, false),
                ']' if self.brackets && self.open.last().is_some_and(|(kind, _)| *kind == '[') => {
                    self.close(1.0 / STRONGER, false)
                }
                _ => {
                    let end = rest.find(|c| c == '\\' || c == ':' || self.is_special(c)).filter(|end| *end > 0);
                    let end = end.unwrap_or(if self.is_special(c) { c.len_utf8() } else { rest.len() });
                    self.text_with_breaks(&rest[..end]);
                    next = &rest[end..];
                }
            }
            rest = next;
        }
        while let Some((kind, _)) = self.open.last() {
            let factor = if *kind == '(' { STRONGER } else { 1.0 / STRONGER };
            self.close(factor, false);
        }
        self.joined()
    }

    fn is_special(&self, c: char) -> bool {
        matches!(c, '(' | ')') || self.brackets && matches!(c, '[' | ']')
    }

    fn text(&mut self, text: &str) {
        self.push(Piece::Text(text.to_owned(), 1.0));
    }

    fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
        self.settled.push(false);
    }

    /// Adds text in which BREAK stands as a word.
    fn text_with_breaks(&mut self, text: &str) {
        const WORD: &str = "BREAK";
        let mut rest = text;
        let mut from = 0;
        while let Some(at) = rest[from..].find(WORD).map(|at| at + from) {
            let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let (before, after) = (&rest[..at], &rest[at + WORD.len()..]);
            if is_part(before.chars().next_back()) || is_part(after.chars().next()) {
                from = at + WORD.len();
                continue;
            }
            self.text(before.trim_end());
            self.push(Piece::Break);
            (rest, from) = (after.trim_start(), 0);
        }
        self.text(rest);
    }

    /// Closes the innermost parenthesis: what it holds is `factor` times as strong, for good if `settles`.
    fn close(&mut self, factor: f32, settles: bool) {
        let Some((_, first)) = self.open.pop() else { return };
        for (piece, settled) in self.pieces[first..].iter_mut().zip(&mut self.settled[first..]) {
            if let Piece::Text(_, weight) = piece
                && !*settled
            {
                *weight *= factor;
            }
            *settled |= settles;
        }
    }

    fn joined(self) -> Vec<Piece> {
        let mut all: Vec<Piece> = Vec::new();
        for piece in self.pieces {
            match (all.last_mut(), piece) {
                (_, Piece::Text(text, _)) if text.is_empty() => {}
                (Some(Piece::Text(before, weight)), Piece::Text(text, w)) if *weight == w => before.push_str(&text),
                (_, piece) => all.push(piece),
            }
        }
        all
    }
}

/// The weight at the beginning of what follows a colon, up to its parenthesis, and how long that is.
fn weight(text: &str) -> Option<(f32, usize)> {
    let end = text.find(')')?;
    let number = text[..end].trim();
    let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
    let weight = number.parse().ok().filter(|_| is_number)?;
    Some((weight, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(prompt: &str, syntax: Syntax) -> Vec<(String, f32)> {
        let text = |piece| match piece {
            Piece::Text(text, weight) => (text, weight),
            Piece::Break => ("BREAK".to_owned(), -1.0),
        };
        parse(prompt, syntax).into_iter().map(text).collect()
    }

    fn check(prompt: &str, syntax: Syntax, want: &[(&str, f32)]) {
        let got = texts(prompt, syntax);
        let same = got.len() == want.len() && got.iter().zip(want).all(|(g, w)| g.0 == w.0 && (g.1 - w.1).abs() < 1e-5);
        assert!(same, "{prompt} in {syntax}: {got:?}, {want:?}");
    }

    /// The examples in the documentation of `parse_prompt_attention`.
    #[test]
    fn webui() {
        for (prompt, want) in [
            ("normal text", &[("normal text", 1.0)][..]),
            ("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
            ("(unbalanced", &[("unbalanced", 1.1)]),
            ("\\(literal\\]", &[("(literal]", 1.0)]),
            ("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]),
            (
                "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
                &[
                    ("a ", 1.0),
                    ("house", 1.573),
                    (" ", 1.1),
                    ("on", 1.0),
                    (" a ", 1.1),
                    ("hill", 0.55),
                    (", sun, ", 1.1),
                    ("sky", 1.4641),
                    (".", 1.1),
                ],
            ),
            ("[less]", &[("less", 1.0 / 1.1)]),
            ("a BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
            ("BREAKFAST (BREAK:2)", &[("BREAKFAST ", 1.0), ("BREAK", -1.0)]),
            (
                "16:9 (x:) (y:1.2.3) z:1.5)",
                &[("16:9 ", 1.0), ("x:", 1.1), (" ", 1.0), ("y:1.2.3", 1.1), (" z:1.5)", 1.0)],
            ),
            ("]a) \\", &[("]a) \\", 1.0)]),
            ("", &[]),
        ] {
            check(prompt, Syntax::WebUi, want);
        }
    }

    #[test]
    fn comfyui_has_no_brackets() {
        check("a [b] (c:1.5) ((d))", Syntax::ComfyUi, &[("a [b] ", 1.0), ("c", 1.5), (" ", 1.0), ("d", 1.21)]);
        check("(a (b:2) ((c):3))", Syntax::ComfyUi, &[("a ", 1.1), ("b", 2.0), (" ", 1.1), ("c", 3.3)]);
        check("\\(a\\) \\[", Syntax::ComfyUi, &[("(a) \\[", 1.0)]);
    }

    #[test]
    fn plain_text_is_taken_as_it_is() {
        check("(a:1.3) BREAK [b]", Syntax::Plain, &[("(a:1.3) BREAK [b]", 1.0)]);
    }

    proptest::proptest! {
        /// Any text is parsed, without weights that are not finite, and plain words are kept.
        #[test]
        fn any_text_is_parsed(prompt in "[a-z()\\[\\]:0-9. \\\\é]{0,60}") {
            for syntax in [Syntax::WebUi, Syntax::ComfyUi] {
                let pieces = texts(&prompt, syntax);
                let kept: usize = pieces.iter().map(|(text, _)| text.chars().filter(|c| c.is_alphabetic()).count()).sum();
                proptest::prop_assert_eq!(kept, prompt.chars().filter(|c| c.is_alphabetic()).count());
            }
        }
    }
}
