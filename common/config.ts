import { dirname, resolve } from 'node:path'
import type { z } from 'zod'
import type { EdgeConfig } from './config-edge.ts'
import { edgeSchema } from './config-edge.ts'
import type { HubConfig } from './config-hub.ts'
import { hubSchema } from './config-hub.ts'
import type { ConfigIssue } from './config-issues.ts'
import { describeIssue, knownPaths } from './config-issues.ts'
import { messageOf, systemErrorCode, TributaryError } from './errors.ts'
import { MAX_CONFIG_FILE_BYTES } from './limits.ts'
import { nearest } from './suggest.ts'
import { certificatesFrom } from './tls.ts'
import { parseTokens } from './tokens.ts'

/**
 * Settings come from flags, then `TRIBUTARY_...` variables, then a YAML file, then defaults. A file has a section `edge:`,
 * a section `hub:` or both, and each command reads its own. The variable of a key is its path in capitals:
 * `mqtt.maxPacketBytes` is `TRIBUTARY_MQTT_MAX_PACKET_BYTES`; lists and maps (`rules`, `topics`) are the file's alone.
 * Paths in a file are relative to it, paths in variables and flags to the working directory.
 */

export type Role = 'edge' | 'hub'

/** One flag of a command line that stands for a key. */
export interface ConfigFlag {
  /** `--mqtt`, for messages. */
  flag: string
  /** `mqtt.listen`. */
  path: string
  value: unknown
}

/** Where settings come from. */
export interface ConfigSources {
  /** Path of the YAML file, if any. */
  file?: string | undefined
  env: Readonly<Record<string, string | undefined>>
  flags: readonly ConfigFlag[]
  readFile(path: string): Promise<Uint8Array>
}

/** The effective settings of a section as `config check` shows them: no secrets, only the files they are in. */
export interface CheckedSection {
  role: Role
  settings: Record<string, unknown>
}

/** Loads what `tributary edge` runs with. Throws `config_invalid` that names every wrong key, its value and what is allowed. */
export async function loadEdgeConfig(sources: ConfigSources): Promise<EdgeConfig> {
  const { tokenFile, ca, ...settings } = await load('edge', edgeSchema, sources)
  const reader = new SecretReader(sources)
  const token = tokenFile === null ? null : (await reader.tokens('tokenFile', tokenFile))[0]
  const caPem = ca === null ? null : await reader.certificates('ca', ca)
  const { tls, usersFile } = settings.mqtt
  if (usersFile !== null) await reader.text('mqtt.usersFile', usersFile)
  if (tls !== null) await reader.text('mqtt.tls.certFile', tls.certFile)
  if (tls !== null) await reader.text('mqtt.tls.keyFile', tls.keyFile)
  reader.throwIssues()
  return { ...settings, token: token ?? null, caPem }
}

/** Loads what `tributary hub` runs with. Throws `config_invalid` like `loadEdgeConfig`. */
export async function loadHubConfig(sources: ConfigSources): Promise<HubConfig> {
  const { tokenFile, ...settings } = await load('hub', hubSchema, sources)
  const { peerSecretFile, ...cluster } = settings.cluster
  const reader = new SecretReader(sources)
  const tokens = tokenFile === null ? [] : await reader.tokens('tokenFile', tokenFile)
  const peerSecret =
    peerSecretFile === null ? null : (await reader.tokens('cluster.peerSecretFile', peerSecretFile))[0]
  if (cluster.peerTls !== null) {
    for (const [name, file] of Object.entries(cluster.peerTls))
      await reader.text(`cluster.peerTls.${name}`, file)
  }
  reader.throwIssues()
  return { ...settings, tokens, cluster: { ...cluster, peerSecret: peerSecret ?? null } }
}

/** Checks every section of a file, with the environment as a start would see it. Throws `config_invalid`. */
export async function checkConfigFile(sources: ConfigSources & { file: string }): Promise<CheckedSection[]> {
  const sections = await readSections(sources.file, sources)
  const checked: CheckedSection[] = []
  const problems: string[] = []
  for (const role of ['edge', 'hub'] as const) {
    if (!Object.hasOwn(sections, role)) continue
    try {
      await (role === 'edge' ? loadEdgeConfig(sources) : loadHubConfig(sources))
      const schema = role === 'edge' ? edgeSchema : hubSchema
      checked.push({ role, settings: await load(role, schema, sources) })
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  if (problems.length > 0) throw new TributaryError('config_invalid', problems.join('\n'))
  return checked
}

/** The variables a role reads and the keys they stand for. */
export function environmentKeys(role: Role): Map<string, string> {
  const names = new Map<string, string>()
  for (const [path, kind] of knownPaths(role === 'edge' ? edgeSchema : hubSchema)) {
    if (kind === 'leaf') names.set(environmentName(path), path)
  }
  return names
}

function environmentName(path: string): string {
  return `TRIBUTARY_${path.replace(/[A-Z]/g, '_$&').replaceAll('.', '_').toUpperCase()}`
}

/** Keys that name files or folders. */
const PATH_KEYS = [
  'data',
  'tokenFile',
  'ca',
  'mqtt.usersFile',
  'mqtt.tls.certFile',
  'mqtt.tls.keyFile',
  'cluster.peerSecretFile',
  'cluster.peerTls.certFile',
  'cluster.peerTls.keyFile',
  'cluster.peerTls.caFile',
]

type Tree = Record<string, unknown>

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Merges the layers and validates what comes out. */
async function load<Schema extends z.ZodType>(
  role: Role,
  schema: Schema,
  sources: ConfigSources,
): Promise<z.output<Schema>> {
  const tree = sources.file === undefined ? {} : await readSection(role, sources.file, sources)
  const origins = new Map<string, string>()
  const issues: ConfigIssue[] = []
  for (const setting of fromEnvironment(role, sources.env, issues).concat(sources.flags)) {
    setPath(tree, setting.path, setting.value)
    origins.set(setting.path, setting.flag)
  }
  const result = schema.safeParse(tree)
  if (!result.success) {
    const paths = knownPaths(schema)
    for (const issue of result.error.issues) issues.push(...describeIssue(issue, tree, paths))
  }
  throwIssues(issues, origins, sources.file)
  if (!result.success) throw result.error
  return result.data
}

function fromEnvironment(role: Role, env: ConfigSources['env'], unknown: ConfigIssue[]): ConfigFlag[] {
  const keys = environmentKeys(role)
  const others = new Set([...environmentKeys(role === 'edge' ? 'hub' : 'edge').keys(), 'TRIBUTARY_CONFIG'])
  const settings: ConfigFlag[] = []
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith('TRIBUTARY_') || value === undefined || value === '') continue
    const path = keys.get(name)
    if (path !== undefined) settings.push({ flag: name, path, value })
    else if (!others.has(name) && !isServiceLink(name)) {
      const near = nearest(name, keys.keys())
      const allowed = near === null ? 'no such variable; the README lists them' : `did you mean ${near}?`
      unknown.push({ path: name, value, problem: 'is unknown', allowed })
    }
  }
  return settings
}

/** Kubernetes gives every pod such variables for a Service that is named `tributary...`. */
function isServiceLink(name: string): boolean {
  return /_SERVICE_(HOST|PORT)|_PORT$|_PORT_\d+_(TCP|UDP)/.test(name)
}

/** Sets a key, making sections on the way; a value that stands where a section should is left for the schema to refuse. */
function setPath(tree: Tree, path: string, value: unknown): void {
  const keys = path.split('.')
  const last = keys.pop() ?? path
  let at = tree
  for (const key of keys) {
    const below = at[key] ?? {}
    if (!isTree(below)) return
    at[key] = below
    at = below
  }
  at[last] = value
}

/** The role's own section of a file, with its paths resolved against the file. */
async function readSection(role: Role, file: string, sources: ConfigSources): Promise<Tree> {
  const sections = await readSections(file, sources)
  if (!Object.hasOwn(sections, role)) invalid(`${file} has no section ${role}: for this command`)
  const tree = sections[role] ?? {}
  if (!isTree(tree)) {
    const hint = role === 'hub' ? '; the hub that an edge talks to is the key hub inside edge:' : ''
    invalid(`${file}: ${role} is ${JSON.stringify(tree)}; expected a section of settings${hint}`)
  }
  for (const key of PATH_KEYS) resolvePath(tree, key, dirname(file))
  return tree
}

function resolvePath(tree: Tree, path: string, folder: string): void {
  const keys = path.split('.')
  const last = keys.pop() ?? path
  let at: unknown = tree
  for (const key of keys) at = isTree(at) ? at[key] : undefined
  if (!isTree(at)) return
  const value = at[last]
  if (typeof value === 'string' && value !== 'off' && value !== 'none') at[last] = resolve(folder, value)
}

async function readSections(file: string, sources: ConfigSources): Promise<Tree> {
  const text = decode(file, await readBytes(file, sources))
  // Only here, so that an edge without a file doesn't hold a YAML parser in memory.
  const { parseDocument } = await import('yaml')
  const document = parseDocument(text, { prettyErrors: false })
  const error = document.errors[0]
  if (error !== undefined) {
    const before = text.slice(0, error.pos[0]).split('\n')
    invalid(`${file}:${before.length}:${(before.at(-1)?.length ?? 0) + 1}: not valid YAML: ${error.message}`)
  }
  const tree: unknown = document.toJS()
  if (!isTree(tree)) invalid(`${file} has no section edge: or hub:`)
  for (const key of Object.keys(tree)) {
    if (key === 'edge' || key === 'hub') continue
    const owner = (['edge', 'hub'] as const).find(role =>
      knownPaths(role === 'edge' ? edgeSchema : hubSchema).has(key),
    )
    const near = nearest(key, ['edge', 'hub'])
    const hint = owner ? `; put it under ${owner}:` : near ? `; did you mean ${near}?` : ''
    invalid(`${file}: unknown key ${key}: the top level has the sections edge: and hub:${hint}`)
  }
  if (Object.keys(tree).length === 0) invalid(`${file} has no section edge: or hub:`)
  return tree
}

async function readBytes(file: string, sources: ConfigSources): Promise<Uint8Array> {
  let bytes: Uint8Array
  try {
    bytes = await sources.readFile(file)
  } catch (cause) {
    const why = systemErrorCode(cause) ?? messageOf(cause)
    throw new TributaryError('config_invalid', `${file} can't be read (${why})`, { cause })
  }
  if (bytes.length > MAX_CONFIG_FILE_BYTES) {
    invalid(`${file} has ${bytes.length} bytes, more than the ${MAX_CONFIG_FILE_BYTES} allowed`)
  }
  return bytes
}

function decode(file: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new TributaryError('config_invalid', `${file} is not UTF-8 text`, { cause })
  }
}

function invalid(message: string): never {
  throw new TributaryError('config_invalid', message)
}

function throwIssues(
  issues: readonly ConfigIssue[],
  origins: ReadonlyMap<string, string>,
  file: string | undefined,
): void {
  if (issues.length === 0) return
  const lines = issues.map(issue => {
    const origin = issue.path.startsWith('TRIBUTARY_') ? 'environment' : origins.get(issue.path)
    const where = origin !== undefined ? `${origin}: ` : file !== undefined ? `${file}: ` : ''
    return `${where}${issue.path} ${issue.problem}; ${issue.allowed}`
  })
  throw new TributaryError('config_invalid', lines.join('\n'), { details: { issues } })
}

/** Reads the files that settings name, collecting what is wrong with them. */
class SecretReader {
  readonly #sources: ConfigSources
  readonly #problems: string[] = []

  constructor(sources: ConfigSources) {
    this.#sources = sources
  }

  async text(path: string, file: string): Promise<string> {
    try {
      return decode(file, await readBytes(file, this.#sources))
    } catch (error) {
      this.#problems.push(`${path}: ${messageOf(error)}`)
      return ''
    }
  }

  async tokens(path: string, file: string): Promise<string[]> {
    return this.#parsed(path, file, text => parseTokens(file, text), [])
  }

  async certificates(path: string, file: string): Promise<string> {
    return this.#parsed(path, file, text => certificatesFrom(file, text), '')
  }

  async #parsed<T>(path: string, file: string, parse: (text: string) => T, otherwise: T): Promise<T> {
    const problems = this.#problems.length
    const text = await this.text(path, file)
    if (this.#problems.length > problems) return otherwise
    try {
      return parse(text)
    } catch (error) {
      this.#problems.push(`${path}: ${messageOf(error)}`)
      return otherwise
    }
  }

  throwIssues(): void {
    if (this.#problems.length > 0) invalid(this.#problems.join('\n'))
  }
}
