import { ByteReader, readU32, utf8, utf8Text, writeU32 } from '../../../../common/bytes.ts'
import { crc32c } from '../../../../common/crc32c.ts'
import { TributaryError } from '../../../../common/errors.ts'
import type { SnapshotMark } from '../../../raft/types.ts'
import { decodeMark, encodeMark } from './codec.ts'

/**
 * A snapshot of the metadata as a file, and as it travels: a magic, then pieces of length, CRC-32C and bytes. The first piece is the
 * mark, each of the others a record of the image, as in the metadata log.
 */

const MAGIC = utf8('TRIBMET1')
const PIECE_HEAD_BYTES = 8

/** What a snapshot file holds. */
export interface SnapshotContent {
  mark: SnapshotMark
  /** Views of the file's bytes. */
  records: Uint8Array[]
  /** Pieces that could not be read, and were passed over. */
  damaged: number
}

/** The bytes of a snapshot. */
export function encodeSnapshotFile(mark: SnapshotMark, records: readonly Uint8Array[]): Uint8Array {
  const pieces = [encodeMark(mark), ...records]
  const sizeBytes = pieces.reduce((total, piece) => total + PIECE_HEAD_BYTES + piece.length, MAGIC.length)
  const file = new Uint8Array(sizeBytes)
  file.set(MAGIC)
  let at = MAGIC.length
  for (const piece of pieces) {
    writeU32(file, at, piece.length)
    writeU32(file, at + 4, crc32c(piece))
    file.set(piece, at + PIECE_HEAD_BYTES)
    at += PIECE_HEAD_BYTES + piece.length
  }
  return file
}

/**
 * Reads a snapshot. A damaged record costs itself alone where its length can be told. Throws `corrupt_log` where the mark
 * is lost, `directory_newer_format` for another magic.
 */
export function decodeSnapshotFile(file: Uint8Array): SnapshotContent {
  const magic = file.subarray(0, MAGIC.length)
  if (utf8Text(magic) !== utf8Text(MAGIC)) {
    throw new TributaryError(
      'directory_newer_format',
      'the snapshot of the metadata is of a format that this version does not know: run the version that wrote it',
    )
  }
  const reader = new ByteReader(file, MAGIC.length, file.length)
  const first = nextPiece(reader)
  if (first === null) {
    throw new TributaryError('corrupt_log', 'the snapshot of the metadata is damaged: restore a backup')
  }
  const mark = decodeMark(first)
  const records: Uint8Array[] = []
  let damaged = 0
  while (reader.remaining() > 0) {
    const piece = nextPiece(reader)
    if (piece === null) damaged++
    else records.push(piece)
  }
  return { mark, records, damaged }
}

/** The bytes of the next piece; null where they are damaged, and all that is left is passed over where the length is. */
function nextPiece(reader: ByteReader): Uint8Array | null {
  const rest = reader.remaining()
  if (rest < PIECE_HEAD_BYTES) {
    reader.skip(rest)
    return null
  }
  const head = reader.slice(PIECE_HEAD_BYTES)
  const length = readU32(head, 0)
  if (length > reader.remaining()) {
    reader.skip(reader.remaining())
    return null
  }
  const piece = reader.slice(length)
  return crc32c(piece) === readU32(head, 4) ? piece : null
}
