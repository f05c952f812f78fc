"""For trainers of transformers and TRL: a callback that watches for hacking, and training from a cache.

The modules:

    callback.py  HackingCallback: golden, proxy, health and the oracle-free detector, every N steps
    dataset.py   CacheDataset, CacheCollator, CacheLoss: their Trainer trains from a cache
    loader.py    CacheLoader: the batches of a cache for a loop of one's own, resumed within an epoch

Both in use:

    from thack import EvalSet, HackingCallback, References
    references = References.of(teacher=teacher, oracle=judge)
    eval_set = EvalSet.from_jsonl("held_out.jsonl").with_responses(references)
    trainer = GKDTrainer(..., callbacks=[HackingCallback(eval_set, teacher=teacher, oracle=judge, every=200)])

    from thack.cache import Cache
    from thack.integrations import CacheCollator, CacheDataset, CacheLoss
    cache = Cache.open("cache/")
    trainer = Trainer(student, args, train_dataset=CacheDataset(cache), data_collator=CacheCollator(cache, student),
                      compute_loss_func=CacheLoss())
"""

from thack.integrations.callback import CallbackSettings, HackingCallback
from thack.integrations.dataset import CacheCollator, CacheDataset, CacheLoss
from thack.integrations.labels import CachedLabels
from thack.integrations.loader import CacheLoader

__all__ = [
    "CacheCollator",
    "CacheDataset",
    "CacheLoader",
    "CacheLoss",
    "CachedLabels",
    "CallbackSettings",
    "HackingCallback",
]
