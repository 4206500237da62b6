"""Who does what on a cluster, and what it costs there: from sizes alone, before anything is trained."""
