"""What the models are called in tables and pictures."""

NAMES = {
    "popularity": "popularity",
    "popularity_ordinary": "popularity, ordinary accounts",
    "item_knn": "item kNN",
    "item_knn_ordinary": "item kNN, ordinary accounts",
    "rp3beta": "RP3beta",
    "ials": "iALS",
    "ease": "EASE",
    "content_image": "content kNN, image",
    "content_audio": "content kNN, audio",
    "content_knn": "content kNN, both",
    "two_tower": "two-tower, content and id",
    "walk": "walk",
    "walk_backoff": "walk + popularity",
    "walk_content": "walk + popularity + content",
    "funnel": "funnel, labels from train",
    "recent_popularity": "popularity, validation pairs",
    "walk_recent": "walk + that popularity",
    "funnel_recent": "funnel, labels from validation",
}
