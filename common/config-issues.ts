import { z } from 'zod'
import { nearest } from './suggest.ts'

/** One thing that is wrong with a config: the key, what stands there, and what may. */
export interface ConfigIssue {
  path: string
  value: unknown
  /** `is "12x"`, `is unknown`. */
  problem: string
  /** `expected a size from ...`, `did you mean ...?` */
  allowed: string
}

/** Every key of a schema by path, `*` for any index or name; groups are sections. */
export function knownPaths(schema: z.core.$ZodType): Map<string, 'leaf' | 'section'> {
  const paths = new Map<string, 'leaf' | 'section'>()
  walk(schema, '', paths)
  paths.delete('')
  return paths
}

function walk(schema: z.core.$ZodType, path: string, paths: Map<string, 'leaf' | 'section'>): void {
  const below = (key: string) => (path === '' ? key : `${path}.${key}`)
  if (schema instanceof z.ZodObject) {
    paths.set(path, 'section')
    for (const [key, child] of Object.entries(schema.shape)) walk(child, below(key), paths)
  } else if (schema instanceof z.ZodArray) {
    paths.set(path, 'section')
    walk(schema.element, below('*'), paths)
  } else if (schema instanceof z.ZodRecord) {
    paths.set(path, 'section')
    walk(schema.valueType, below('*'), paths)
  } else if (
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodNullable ||
    schema instanceof z.ZodExactOptional
  ) {
    walk(schema.unwrap(), path, paths)
  } else if (schema instanceof z.ZodPipe && schema.in instanceof z.ZodTransform) {
    walk(schema.out, path, paths)
  } else {
    paths.set(path, 'leaf')
  }
}

/** Says in words what zod found at one place of `tree`. */
export function describeIssue(
  issue: z.core.$ZodIssue,
  tree: unknown,
  paths: ReadonlyMap<string, 'leaf' | 'section'>,
): ConfigIssue[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map(key => unknownKey([...issue.path, key], tree, paths))
  }
  const path = issue.path.join('.')
  const value = valueAt(tree, issue.path)
  const problem = value === undefined ? 'is missing' : `is ${shown(value)}`
  return [{ path, value, problem, allowed: `expected ${expectation(issue)}` }]
}

function expectation(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_value' && !issue.message.startsWith('true')) return oneOf(issue.values)
  if (issue.code === 'invalid_type') {
    return issue.expected === 'object' || issue.expected === 'record' ? 'a section of settings' : `a list`
  }
  if (issue.code === 'invalid_key') return issue.issues[0]?.message ?? issue.message
  if (issue.code === 'too_big') return `at most ${issue.maximum} of them`
  return issue.message
}

function oneOf(values: readonly unknown[]): string {
  return `one of ${values.join(', ')}`
}

/** Keys of a hub that an edge does without for a reason. */
const REFUSED: Readonly<Record<string, string>> = {
  'storage.flush': 'an edge acks nothing before it is synced; only a hub has the choice',
}

function unknownKey(
  keys: readonly PropertyKey[],
  tree: unknown,
  paths: ReadonlyMap<string, 'leaf' | 'section'>,
): ConfigIssue {
  const path = keys.join('.')
  const value = valueAt(tree, keys)
  const pattern = generalize(keys, paths)
  const last = pattern.slice(pattern.lastIndexOf('.') + 1)
  const prefix = pattern.slice(0, pattern.length - last.length)
  const siblings = [...paths.keys()]
    .filter(known => known.startsWith(prefix) && !known.slice(prefix.length).includes('.'))
    .map(known => known.slice(prefix.length))
  const why = REFUSED[path]
  if (why !== undefined) return { path, value, problem: 'is unknown', allowed: why }
  const near = nearest(last, siblings)
  // The right key in the wrong section is as common as a mistyped one.
  const moved = [...paths.keys()].find(known => known === last || known.endsWith(`.${last}`))
  const allowed =
    near !== null
      ? `did you mean ${near}?`
      : moved !== undefined
        ? `did you mean ${moved}?`
        : `known here: ${siblings.filter(name => name !== '*').join(', ')}`
  return { path, value, problem: 'is unknown', allowed }
}

/** Replaces indexes and topic names by `*`, as `knownPaths` has them. */
function generalize(keys: readonly PropertyKey[], paths: ReadonlyMap<string, 'leaf' | 'section'>): string {
  let path = ''
  for (const key of keys) {
    const named = path === '' ? String(key) : `${path}.${String(key)}`
    const any = `${path}.*`
    path = !paths.has(named) && paths.has(any) ? any : named
  }
  return path
}

function valueAt(tree: unknown, keys: readonly PropertyKey[]): unknown {
  let value = tree
  for (const key of keys) {
    if (typeof value !== 'object' || value === null) return undefined
    value = Reflect.get(value, key)
  }
  return value
}

const MAX_SHOWN = 80

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value)
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}...` : text
}
