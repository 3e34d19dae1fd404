"""Serving plumbing: durable event log, derived-state store, stage budgets, HTTP shell, load test.

Nothing here knows what is recommended or searched; a system brings its own routes and its own
request path and hangs them into `service.create_service`. Import the modules directly; this
package re-exports nothing, so that a caller pays only for what it uses.
"""
