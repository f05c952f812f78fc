"""The glossary at the end of a page, for a reader who does not know the paper."""

GLOSSARY = {
    "oracle": "the model in the role of the ground truth: by definition, its answers are right",
    "teacher": "a model trained towards the oracle, good but imperfect: it has habits of its own",
    "student": "the smaller model that is trained to imitate the teacher (distillation)",
    "golden": "distance from student to oracle on held-out prompts: what one really wants to be small",
    "proxy": "distance from student to teacher on the same prompts: what training makes small",
    "judge": "a stronger model in the oracle’s role, where there is no oracle; its columns are named judge/…",
    "human references": "responses that people wrote. Where there is neither an oracle nor a judge, their negative "
    "log-likelihood under the student replaces golden; its columns are named human/…",
    "teacher hacking": "the proxy keeps falling while golden rises: the student now learns the teacher’s mistakes",
    "offline": "responses written once and reused in every epoch",
    "online-teacher": "the teacher writes new responses in every epoch",
    "online-student": "the student writes new responses in every epoch (on-policy), and the teacher corrects them",
    "KL, nats": "Kullback–Leibler divergence, the distance used here: 0 if two models agree on every next word; "
    "measured in nats (1 nat = 1.44 bits) per token of the response",
    "log ratio, nats per byte": "where tokenizers differ: log-probability of a response under the model that wrote it, "
    "minus that under the other, each in its own tokens, per byte of text. On average it is the KL of whole responses",
    "KL(oracle‖teacher)": "the teacher baseline: how far the teacher is from the oracle. A perfect copy of the "
    "teacher ends there; a student above it is further from the truth than its teacher is",
    "rise": "golden at the end, over its minimum after the warm-up, minus 1",
    "interval": "95 %: computed again 2,000 times with the held-out prompts sampled anew. It covers which prompts were "
    "held out, not another training seed",
    "onset": "the step of golden’s minimum: more training than that does harm",
    "slope ratio": "progress on held-out prompts per progress on training responses, both in log; "
    "near 0 the student memorises",
    "fresh slope ratio": "the same with other responses of the teacher to the training prompts in place of held-out "
    "prompts",
}
