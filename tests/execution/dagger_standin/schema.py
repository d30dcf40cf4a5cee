"""The part of Dagger's API that Praxis uses; `test_dagger_engine` holds it against the SDK."""

from graphql import GraphQLSchema, build_schema

SDL = """
interface Node { id: ID! }

enum ReturnType { SUCCESS FAILURE ANY }

type Query {
  version: String!
  node(id: ID!): Node
  host: Host!
  container: Container!
  directory: Directory!
  cacheVolume(key: String!): CacheVolume!
}

type Host implements Node {
  id: ID!
  directory(path: String!, noCache: Boolean = false): Directory!
  file(path: String!, noCache: Boolean = false): File!
}

type CacheVolume implements Node { id: ID! }

type File implements Node {
  id: ID!
  sync: ID!
  size: Int!
}

type Directory implements Node {
  id: ID!
  sync: ID!
  entries: [String!]!
  file(path: String!): File!
  diff(other: ID!): Directory!
  chown(path: String!, owner: String!): Directory!
  withFile(path: String!, source: ID!, permissions: Int, owner: String = ""): Directory!
  withNewFile(path: String!, contents: String!, permissions: Int = 420): Directory!
  export(path: String!): String!
}

type Container implements Node {
  id: ID!
  sync: ID!
  from(address: String!): Container!
  withMountedDirectory(path: String!, source: ID!, readOnly: Boolean = false): Container!
  withMountedFile(path: String!, source: ID!): Container!
  withMountedCache(path: String!, cache: ID!): Container!
  withUser(name: String!): Container!
  withWorkdir(path: String!): Container!
  withEnvVariable(name: String!, value: String!): Container!
  withNewFile(path: String!, contents: String!, permissions: Int = 420): Container!
  withExec(
    args: [String!]!, stdin: String = "", expect: ReturnType = SUCCESS, insecureRootCapabilities: Boolean = false
  ): Container!
  stdout: String!
  stderr: String!
  exitCode: Int!
  exists(path: String!): Boolean!
  envVariable(name: String!): String
  directory(path: String!): Directory!
  file(path: String!): File!
}
"""


def make_schema() -> GraphQLSchema:
    """Build the schema."""
    return build_schema(SDL)
