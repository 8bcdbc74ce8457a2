"""`model`: the network that a run trains. Torch-free."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from pipeline.config_tree import Positive, Section
from pipeline.models.variants import Variant, variant

FOREIGN: Final = "hf:"  # begins the name of a model of transformers; a folder with its config.json follows
SHIPPED: Final = Path(__file__).parent / "models" / "shipped"  # a config.json for each name that needs no folder
_OF_BOTH: Final = ("name", "image_size", "head_bias", "init")


def shipped_names() -> list[str]:
    """What `hf:` takes besides a folder; one of that name is `hf:./NAME`."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


class Resolution(Section):
    """The first steps of a run, or those after another of these, with images of another size than the model's."""

    image_size: Positive
    until: Annotated[float, Field(gt=0, lt=1)]  # share of the run's steps that are done when they end


class Model(Section):
    name: str  # vit-{ti,s,b,l,h,g}/PATCH, r50+vit-.../{16,32}, hf:FOLDER, or hf: and a name of SHIPPED
    image_size: Positive = 224
    pooling: Literal["cls", "gap", "map"] = "cls"
    pos_embed: Literal["learned", "sincos2d", "none"] = "learned"
    registers: Annotated[int, Field(ge=0)] = 0  # learned tokens beside the patches, of which no head knows
    layer_scale: Annotated[float, Field(gt=0)] | None = None  # first value of the factors of every residual branch
    qk_norm: bool = False  # layer norms of queries and keys, each head by itself
    representation_size: Positive | None = None  # the paper's pre-logits layer (dense + tanh)
    head_bias: float = 0.0  # -10 for a sigmoid loss over many classes
    width: Positive | None = None  # these four override the named size
    depth: Positive | None = None
    mlp_dim: Positive | None = None
    heads: Positive | None = None
    init: Path | None = None  # weights that a fresh run starts from: a Hugging Face folder, or a checkpoint's

    @property
    def foreign(self) -> Path | None:
        """Of a model of transformers, the folder that its name gives, or the JSON file; else None."""
        if not self.name.startswith(FOREIGN):
            return None
        said = self.name.removeprefix(FOREIGN)
        return SHIPPED / f"{said}.json" if said in shipped_names() else Path(said).expanduser()

    @property
    def variant(self) -> Variant:
        """Our architecture's numbers. Raises UsageError naming the key at fault."""
        return variant(self.name, self.width, self.depth, self.mlp_dim, self.heads)

    def misfit(self, image_size: int) -> str | None:
        """Why images of that size cannot be cut into patches, or None; of our own architecture."""
        patch, resnet = self.variant.patch, self.variant.resnet
        if image_size % patch == 0:
            return None
        below, what = max(patch, image_size // patch * patch), "ResNet's stride" if resnet else "patch"
        return f"image_size {image_size} is not a multiple of the {what}, {patch}: take {below} or {below + patch}"

    @model_validator(mode="after")
    def _fits(self) -> "Model":
        if self.foreign is not None:
            return self._only_what_a_foreign_one_has()
        width = self.variant.width
        if misfit := self.misfit(self.image_size):
            raise ValueError(misfit)
        if self.pos_embed == "sincos2d" and (width % 4 or width < 8):
            raise ValueError(f"pos_embed: sincos2d needs a width that is a multiple of 4, from 8 on, not {width}")
        return self

    def _only_what_a_foreign_one_has(self) -> "Model":
        for key, field in type(self).model_fields.items():
            if key not in _OF_BOTH and getattr(self, key) != field.default:
                raise ValueError(f"{key} is of our own ViT; what {self.name} is, its config.json says: leave {key} out")
        if self.init is not None:
            raise ValueError(f"init: {self.name} starts from its own initialisation: leave init out")
        return self
