"""Model families, one a file: what ``transformers`` calls their parts."""

from fedsim.models.families.bert import BertAdapter
from fedsim.models.families.gpt2 import GPT2Adapter
from fedsim.models.families.llama import LlamaAdapter

__all__ = ["BertAdapter", "GPT2Adapter", "LlamaAdapter"]
