"""The paper, in torch: networks, propagation and heads. Stateless between calls."""
