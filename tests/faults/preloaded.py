"""What the server of the trainers has imported before it forks them."""

import trainer.train  # noqa: F401
