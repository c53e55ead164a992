//! XML by hand: a few elements, whose texts are escaped.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// The namespace that the tools expect.
const NAMESPACE: &str = "http://schemas.microsoft.com/windowsazure";

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Element {
    /// With text.
    Text(&'static str, String),
    /// With others in it.
    Group(&'static str, Vec<Element>),
}

impl Element {
    fn write(&self, out: &mut String, attributes: &str) {
        let (name, inside) = match self {
            Self::Text(name, text) => (name, escaped(text)),
            Self::Group(name, children) => {
                let mut inside = String::new();
                for child in children {
                    child.write(&mut inside, "");
                }
                (name, inside)
            }
        };
        match inside.as_str() {
            "" => out.push_str(&format!("<{name}{attributes}/>")),
            inside => out.push_str(&format!("<{name}{attributes}>{inside}</{name}>")),
        }
    }
}

/// A whole document, as an answer.
pub(super) struct Xml(pub(super) Element);

impl Xml {
    fn text(&self) -> String {
        let mut out = String::new();
        self.0.write(&mut out, &format!(" xmlns=\"{NAMESPACE}\""));
        out
    }
}

impl IntoResponse for Xml {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/xml; charset=utf-8")], self.text()).into_response()
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // XML 1.0 has no way to write the others.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_written_as_the_tools_read_it() {
        let text = |name, text: &str| Element::Text(name, text.to_owned());
        let operation = Element::Group(
            "Operation",
            vec![text("ID", "7"), text("Status", "Succeeded"), text("HttpStatusCode", "200")],
        );
        assert_eq!(
            Xml(operation).text(),
            "<Operation xmlns=\"http://schemas.microsoft.com/windowsazure\"><ID>7</ID><Status>Succeeded</Status>\
             <HttpStatusCode>200</HttpStatusCode></Operation>"
        );
    }

    #[test]
    fn texts_cannot_be_more_than_texts() {
        assert_eq!(escaped("a<b>&\"'\u{1}\n"), "a&lt;b&gt;&amp;&quot;&apos;\u{fffd}\n");
        let empty = Xml(Element::Group("ExternalResources", Vec::new())).text();
        assert_eq!(empty, "<ExternalResources xmlns=\"http://schemas.microsoft.com/windowsazure\"/>");
    }
}
