"""What any update tells by itself: its gradient, weight decay, labels, lengths."""
