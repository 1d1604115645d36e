import type { Command } from 'commander'
import { InvalidArgumentError, Option } from 'commander'
import { parseHubUrl } from '../address.ts'
import type { TributaryClient } from '../client.ts'
import { TributaryError } from '../errors.ts'
import { MAX_CONFIG_FILE_BYTES } from '../limits.ts'
import { parseDuration, parseSize } from '../units.ts'
import type { Cli } from './cli.ts'

/** The flags of every command that talks to a hub. */
export interface ClientFlags {
  hub: string
  tokenFile?: string
  ca?: string
}

/** Adds `--hub`, `--token-file` and `--ca`, each with its variable. */
export function withClientOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--hub <url>', 'the hub')
        .env('TRIBUTARY_HUB')
        .default('ws://127.0.0.1:7600')
        .argParser(hubUrl),
    )
    .addOption(
      new Option('--token-file <file>', 'file with the token to present').env('TRIBUTARY_TOKEN_FILE'),
    )
    .addOption(
      new Option('--ca <file>', 'certificate authorities (PEM) to trust for wss: and https:').env(
        'TRIBUTARY_CA',
      ),
    )
}

/** Connects, runs `use`, and closes however that ends. */
export async function withClient(
  cli: Cli,
  flags: ClientFlags,
  use: (client: TributaryClient) => Promise<void>,
): Promise<void> {
  const env = await cli.env()
  const read = (path: string) => readText(path, env.disk)
  const token =
    flags.tokenFile === undefined ? undefined : firstToken(flags.tokenFile, await read(flags.tokenFile))
  const caPem = flags.ca === undefined ? undefined : await read(flags.ca)
  const { connect } = await import('../client.ts')
  const client = connect({
    hub: flags.hub,
    env,
    ...(token === undefined ? {} : { token }),
    ...(caPem === undefined ? {} : { caPem }),
  })
  try {
    await use(client)
  } finally {
    await client.close()
  }
}

async function readText(
  path: string,
  disk: { readFile(path: string): Promise<Uint8Array> },
): Promise<string> {
  const bytes = await disk.readFile(path)
  if (bytes.length > MAX_CONFIG_FILE_BYTES) {
    throw new TributaryError('invalid_argument', `${path} is too large to be a token or certificate file`)
  }
  return new TextDecoder().decode(bytes)
}

function firstToken(path: string, text: string): string {
  const token = text
    .split('\n')
    .map(line => line.trim())
    .find(line => line !== '' && !line.startsWith('#'))
  if (token === undefined) throw new TributaryError('invalid_argument', `${path} has no token in it`)
  return token
}

function hubUrl(text: string): string {
  const url = parseHubUrl(text)
  if (url === null) throw new InvalidArgumentError('Expected a URL such as ws://127.0.0.1:7600.')
  return url
}

/** Parsers for commander's options; each throws what commander shows with the flag. */
export function wholeNumber(text: string): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new InvalidArgumentError('Expected a whole number.')
  return value
}

export function positiveNumber(text: string): number {
  const value = wholeNumber(text)
  if (value === 0) throw new InvalidArgumentError('Expected a whole number above 0.')
  return value
}

export function size(text: string): number {
  const bytes = parseSize(text)
  if (bytes === null || bytes <= 0) throw new InvalidArgumentError('Expected a size such as 64KiB or 1GiB.')
  return bytes
}

/** `off` stays text: commander takes null for no value at all. */
export function sizeOrOff(text: string): number | 'off' {
  return text === 'off' ? 'off' : size(text)
}

export function durationOrOff(text: string): number | 'off' {
  if (text === 'off') return 'off'
  const ms = parseDuration(text)
  if (ms === null || ms <= 0) throw new InvalidArgumentError('Expected a duration such as 24h or 7d, or off.')
  return ms
}

/** Help text with one example a line. */
export function examples(...lines: string[]): string {
  return `\nExamples:\n${lines.map(line => `  $ ${line}`).join('\n')}`
}
