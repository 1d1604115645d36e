import { hostname } from 'node:os'
import type { Logger } from 'pino'
import type { Address } from '../common/address.ts'
import { formatAddress } from '../common/address.ts'
import { utf8, utf8Text } from '../common/bytes.ts'
import type { EdgeConfig } from '../common/config-edge.ts'
import type { Env } from '../common/env.ts'
import { TributaryError } from '../common/errors.ts'
import { MIB } from '../common/limits.ts'
import { openDataDir } from '../common/log/data-dir.ts'
import type { DataDir } from '../common/log/types.ts'
import { VERSION } from '../common/version.ts'
import { createAlarms } from './alarms.ts'
import type { Broker } from './mqtt/broker.ts'
import { createBroker } from './mqtt/broker.ts'
import { hubReport } from './report.ts'
import { createRouter } from './router.ts'
import type { StatusServer } from './status.ts'
import { startStatus } from './status.ts'
import { Store } from './store.ts'
import type { Uplink } from './uplink.ts'
import { startUplink } from './uplink.ts'

/** Puts an edge agent together: MQTT -> router -> store -> uplink, and its status beside them. */

/** Written as a file, so that a truly full disk still takes gaps and session state. The rest of the reserve is accounting. */
const MAX_RESERVE_FILE_BYTES = 4 * MIB
/** Random letters and digits after the host's name in an edge id made here. */
const ID_BYTES = 4
/** A host's name takes at most so much of an id. */
const MAX_HOSTNAME_LENGTH = 64

/** A running edge agent. */
export interface Edge {
  id: string
  mqttAddress: Address | null
  tlsAddress: Address | null
  httpAddress: Address | null
  /** Stops MQTT, ends what is under way, closes the uplink and the data directory, in this order. Idempotent. */
  close(): Promise<void>
  /** Resolves where the edge can't go on, such as after a failed fdatasync: the process must exit non-zero. */
  failed: Promise<TributaryError>
}

/**
 * Starts an edge agent. Rejects with `directory_in_use`, `directory_newer_format`, `port_in_use`, `config_invalid`; nothing is left
 * open then. It does not wait for the hub.
 */
export async function startEdge(config: EdgeConfig, env: Env, log: Logger): Promise<Edge> {
  const { storage } = config
  const startedMs = env.clock.monotonicMs()
  if (await env.disk.exists(`${config.data}/logs/__cluster_metadata`)) {
    const message = `${config.data} is the data directory of a hub: give the edge one of its own with --data`
    throw new TributaryError('config_invalid', message)
  }
  const directory = await openDataDir(
    config.data,
    {
      commitMs: storage.commitMs,
      journalBytes: storage.journalBytes,
      tailCacheBytes: storage.tailCacheBytes,
      reserveBytes: reserveFileBytes(config),
    },
    env,
  )
  tellRecovery(directory, log)
  const started: { store?: Store; uplink?: Uplink; broker?: Broker; status?: StatusServer } = {}
  const close = () => closeAll(started, directory)
  try {
    const alarms = createAlarms(
      () => env.clock.nowMs(),
      ({ kind, lane, message }) => log.warn({ kind, lane }, message),
    )
    // Told of, and the store declares what is lost whenever it finds it.
    await directory.recoveryHandled()
    const store = await Store.open(env, config, directory, alarms)
    started.store = store
    const id = await edgeId(config, store, env)
    const software = `tributary-edge/${VERSION}`
    const uplink = startUplink(store, { edgeId: id, software, log, report: () => hubReport(store) })
    started.uplink = uplink
    const router = createRouter({ edgeId: id, rules: config.rules, topics: config.topics })
    const broker = await createBroker({ env, config: config.mqtt, edgeId: id, ingest: store, router, log })
    started.broker = broker
    const sources = {
      id,
      version: VERSION,
      hub: config.hub,
      startedMs,
      store,
      uplink,
      mqtt: () => broker.stats(),
    }
    if (config.http !== null) started.status = await startStatus(config.http, sources)
    const { mqttAddress, tlsAddress } = broker
    const httpAddress = started.status?.address ?? null
    const told = (address: Address | null) => (address === null ? null : formatAddress(address))
    log.info(
      { id, mqtt: told(mqttAddress), mqttTls: told(tlsAddress), http: told(httpAddress), hub: config.hub },
      'the edge is ready',
    )
    let closing: Promise<void> | null = null
    return {
      id,
      mqttAddress,
      tlsAddress,
      httpAddress,
      failed: store.failed,
      close: () => {
        closing ??= close()
        return closing
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}

async function closeAll(
  started: { store?: Store; uplink?: Uplink; broker?: Broker; status?: StatusServer },
  directory: DataDir,
): Promise<void> {
  await started.broker?.close()
  await started.store?.groups.settled()
  await started.uplink?.close()
  await started.status?.close()
  await started.store?.close()
  await directory.close()
}

function reserveFileBytes({ storage }: EdgeConfig): number {
  const { budgetBytes, reservePercent } = storage
  if (budgetBytes === null) return MAX_RESERVE_FILE_BYTES
  return Math.min(MAX_RESERVE_FILE_BYTES, Math.floor((budgetBytes * reservePercent) / 100))
}

/** The id: as configured, or as made at first start. Either way it is stored. */
async function edgeId(config: EdgeConfig, store: Store, env: Env): Promise<string> {
  const entry = store.state.get('id')
  const stored = entry === undefined ? null : utf8Text(entry)
  const id = config.id ?? stored ?? newId(env)
  if (stored !== null && stored !== id) {
    const message = `this directory belonged to edge ${stored}: the hub takes what it holds as that of a new edge`
    store.alarms.raise('id', message)
  }
  if (stored !== id) await store.state.put([{ key: 'id', value: utf8(id) }])
  return id
}

function newId(env: Env): string {
  const host = hostname()
    .replace(/[^A-Za-z0-9._-]/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '')
  const random = Buffer.from(env.rng.bytes(ID_BYTES)).toString('hex')
  return `${host.slice(0, MAX_HOSTNAME_LENGTH) || 'edge'}-${random}`
}

function tellRecovery({ recovery, path }: DataDir, log: Logger): void {
  const { cleanShutdown, tornTails, damage, belowDurableEnd, durationMs } = recovery
  if (cleanShutdown && damage.length === 0) return
  const facts = { data: path, tornTails: tornTails.length, damage, durationMs }
  if (damage.length > 0 || belowDurableEnd)
    log.warn(facts, 'local logs are damaged: what is lost is declared')
  else log.info(facts, 'recovered from an unclean stop')
}
