//! The data-path core of some lanes of one node.
