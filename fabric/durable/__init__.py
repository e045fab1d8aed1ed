"""Looking after durable work: tasks, dead letters, schedules and schemas, for operators and for agents."""
