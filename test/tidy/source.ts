/** What the tidy test knows of a source file: its imports, what it names, and its comments. */

import { readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { parseAst } from 'vitest/node'

export interface Import {
  specifier: string
  typeOnly: boolean
  line: number
}

export interface Source {
  /** Relative to the repository. */
  path: string
  text: string
  lines: number
  imports: Import[]
  /** Node types with the line they are on, for bans on syntax. */
  syntax: { type: string; line: number }[]
  /** `Date.now`, `setTimeout`, ... as they are written: every name and dotted pair. */
  names: { name: string; line: number }[]
  /** Paths of files named by string literals such as `./worker.ts`, relative to this one. */
  references: string[]
}

interface Node {
  type: string
  start: number
}

function isNode(value: unknown): value is Node & Record<string, unknown> {
  return typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string'
}

/** Reads and parses one TypeScript file. */
export function readSource(path: string): Source {
  return parseSource(path, readFileSync(path, 'utf8'))
}

export function parseSource(path: string, text: string): Source {
  const lineOf = lineFinder(text)
  const source: Source = {
    path,
    text,
    lines: text.split('\n').length - 1,
    imports: [],
    syntax: [],
    names: [],
    references: [],
  }
  visit(parseAst(text, { lang: 'ts' }), node => note(source, node, lineOf(node.start)))
  return source
}

function lineFinder(text: string): (at: number) => number {
  const starts = [0]
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) starts.push(at + 1)
  return at => {
    let low = 0
    let high = starts.length
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if ((starts[middle] ?? 0) <= at) low = middle
      else high = middle
    }
    return low + 1
  }
}

function visit(value: unknown, each: (node: Node & Record<string, unknown>) => void): void {
  if (Array.isArray(value)) for (const item of value) visit(item, each)
  else if (isNode(value)) {
    each(value)
    for (const child of Object.values(value)) if (typeof child === 'object') visit(child, each)
  }
}

function note(source: Source, node: Node & Record<string, unknown>, line: number): void {
  source.syntax.push({ type: syntaxType(node), line })
  const specifier = isNode(node.source) ? node.source.value : undefined
  if (typeof specifier === 'string' && /^(Import|Export|TSImport)/.test(node.type)) {
    const typeOnly = node.importKind === 'type' || node.exportKind === 'type' || node.type === 'TSImportType'
    source.imports.push({ specifier, typeOnly, line })
  } else if (node.type === 'Literal' && typeof node.value === 'string' && /^[\w./-]+\.ts$/.test(node.value)) {
    source.references.push(normalize(join(dirname(source.path), node.value)))
  } else if (node.type === 'Identifier' && typeof node.name === 'string') {
    source.names.push({ name: node.name, line })
  } else if (node.type === 'MemberExpression' && isNode(node.object) && isNode(node.property)) {
    source.names.push({ name: `${String(node.object.name)}.${String(node.property.name)}`, line })
  }
}

function syntaxType(node: Node & Record<string, unknown>): string {
  if (node.async === true) return 'async'
  if (node.type === 'NewExpression' && isNode(node.callee) && Array.isArray(node.arguments)) {
    if (node.callee.name === 'Date' && node.arguments.length === 0) return 'new Date()'
  }
  if (node.type === 'TSAsExpression' && isNode(node.typeAnnotation)) {
    const target = node.typeAnnotation.typeName
    if (isNode(target) && target.name === 'const') return 'as const'
  }
  return node.type
}

/** The repository path that a relative import leads to, or null for packages and built-ins. */
export function targetOf(from: string, specifier: string): string | null {
  return specifier.startsWith('.') ? normalize(join(dirname(from), specifier)) : null
}
