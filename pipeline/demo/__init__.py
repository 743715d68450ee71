"""The phantom cohort and the guided tour; uses the other rooms as any user would."""
