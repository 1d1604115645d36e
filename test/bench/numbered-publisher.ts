/** Publishes numbered QoS 1 messages over one pipelined connection as fast as they are acked. */

import { generate } from 'mqtt-packet'
import { connectMqtt } from './mqtt-connect.ts'

const WINDOW = 4_000
/** Digits of the number that every payload begins with. */
export const NUMBER_DIGITS = 12

/** Resolves when all `count` messages of `payloadBytes` are acked; message n begins with n in NUMBER_DIGITS digits. */
export async function publishNumbered(
  port: number,
  topic: string,
  count: number,
  payloadBytes: number,
): Promise<void> {
  const socket = await connectMqtt(port, 'numbered')
  const template = generate({
    cmd: 'publish',
    topic,
    payload: Buffer.alloc(payloadBytes, 0x61),
    qos: 1,
    messageId: 1,
    dup: false,
    retain: false,
  })
  const idAt = template.length - payloadBytes - 2
  let sent = 0
  let ackedBytes = 0
  const send = (): void => {
    const acked = Math.floor(ackedBytes / 4)
    const room = Math.min(count - sent, WINDOW - (sent - acked))
    if (room <= 0) return
    const bytes = Buffer.allocUnsafe(room * template.length)
    for (let i = 0; i < room; i++) {
      const at = i * template.length
      template.copy(bytes, at)
      bytes.writeUInt16BE((sent % WINDOW) + 1, at + idAt)
      bytes.write(String(sent++).padStart(NUMBER_DIGITS, '0'), at + idAt + 2, 'latin1')
    }
    socket.write(bytes)
  }
  await new Promise<void>((resolve, reject) => {
    socket.on('data', data => {
      ackedBytes += data.length
      if (ackedBytes >= count * 4) resolve()
      else send()
    })
    socket.on('error', reject)
    socket.on('close', () => reject(new Error('the edge closed the connection')))
    send()
  })
  socket.removeAllListeners('close').destroy()
}
