"""The published MovieLens-100K table, reproduced: our models beside the figures others published.

Protocol of the recommenders-team/recommenders README: per-user stratified random 75/25, every
rating is relevant, k = 10, the whole catalogue less the user's train items is ranked. It is a
random split, so a model trains on what a user did *after* the events it is asked for: good for
comparing with a published figure, wrong for judging a recommender (the next-event protocol does
that). Chapters, in reading order:

    train_part   what a model may see: the train rows as dense arrays, and inner folds of them
    scorers      models of who rated what: kNN, RP3beta, EASE, iALS, a kernel, softmax factors
    time_scorers models of what was rated close in time, named apart because they use timestamps
    context      plain facts about a user, an item and their pair
    stack        three small listwise networks over all of these, fitted on inner folds
    table        the protocol over seeds, the printed table, the results file
"""
