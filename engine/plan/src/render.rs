//! A plan as text: JSON for programs, mermaid and graphviz for people.

mod dot;
mod json;
mod mermaid;
