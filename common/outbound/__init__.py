"""Requests to addresses given by users: nothing else in the product opens connections to them.

A URL is checked as text (`urls`), its name is looked up once and every answer must be permitted (`resolving`,
`addresses`), and the connection is made to just those answers (`dialling`), whatever the name means by then
(`fetching`). Sizes are counted after decompression (`bodies`), and one deadline holds for all of it.
"""
