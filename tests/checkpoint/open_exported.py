"""What transformers makes of an exported folder; run by an interpreter that has the version in question.

python open_exported.py FOLDER IMAGE.png OUT.npz
"""

import sys


def main(folder: str, image: str, out: str) -> None:
    sys.modules["torchvision"] = None  # .venv-mds has a stand-in for it, which transformers takes for the real one
    import numpy as np
    import torch
    import transformers
    from PIL import Image

    load = transformers.AutoModelForImageClassification.from_pretrained
    model, loading = load(folder, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(Image.open(image), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model.eval()(pixel_values=pixels).logits
    names = [model.config.id2label[number] for number in range(logits.shape[1])]
    np.savez(out, pixels=pixels, logits=logits, names=names, version=transformers.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
