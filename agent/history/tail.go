package history

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// tail is the file of the events that are not in a block yet. It is made by the first write.
type tail struct {
	path   string
	origin origin
	file   *os.File
	size   int64  // 0: there is nothing in it that counts, not even a header
	next   uint64 // number of the next event, if there are any
	// foreign: its header is another boot's.
	foreign bool
	dirty   bool // since the last sync
	named   bool // the directory has been synced with its name in it
	frame   []byte
}

// held is what a tail has: whole records, of which the first has that number.
type held struct {
	origin
	first   uint64
	count   uint64
	records []byte
	size    int64 // up to where it is whole
	file    int64 // its size
}

// readTail reads whole frames as long as they follow one another. What comes after is cut short, or was never a tail.
func readTail(path string) (held, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return held{}, nil
	}
	if err != nil {
		return held{}, err
	}
	h := held{file: int64(len(b))}
	if h.origin, err = decodeOrigin(b, tailMagic); err != nil {
		return h, nil // cut short when it was made
	}
	decodeFrames(b[fileHeaderSize:], &h)
	h.size += fileHeaderSize
	return h, nil
}

func decodeFrames(b []byte, h *held) {
	for {
		f, err := decodeFrameHeader(b)
		if err != nil || len(b)-frameHeaderSize < f.length {
			return
		}
		records := b[frameHeaderSize : frameHeaderSize+f.length]
		if checksum(records) != f.sum || h.count > 0 && f.first != h.first+h.count || !wholeRecords(records, f.count) {
			return
		}
		if h.count == 0 {
			h.first = f.first
		}
		h.count += f.count
		h.records = append(h.records, records...)
		h.size += int64(frameHeaderSize + f.length)
		b = b[frameHeaderSize+f.length:]
	}
}

// wholeRecords tells that b is n records and nothing else.
func wholeRecords(b []byte, n uint64) bool {
	var rec record
	for ; n > 0; n-- {
		one, rest, err := cutRecord(b)
		if err != nil || rec.parse(one) != nil {
			return false
		}
		b = rest
	}
	return len(b) == 0
}

// skip drops the events before a number.
func (h *held) skip(next uint64) {
	for h.count > 0 && h.first < next {
		_, rest, err := cutRecord(h.records)
		if err != nil {
			h.count, h.records = 0, nil // cannot be: they were looked at
			return
		}
		h.records = rest
		h.first++
		h.count--
	}
}

func (t *tail) open() error {
	if t.file == nil {
		f, err := os.OpenFile(t.path, os.O_RDWR|os.O_CREATE, fileMode)
		if err != nil {
			return err
		}
		t.file = f
	}
	if t.size == 0 {
		if _, err := t.file.WriteAt(t.origin.encode(tailMagic), 0); err != nil {
			return err
		}
		t.size = fileHeaderSize
	}
	return nil
}

// append writes a frame of whole records. Frames follow one another: what is in the tail and does not is in a block.
func (t *tail) append(first, count uint64, records []byte) error {
	if t.size > fileHeaderSize && t.next != first {
		if err := t.clear(); err != nil {
			return err
		}
	}
	if err := t.open(); err != nil {
		return fmt.Errorf("tail %s: %w", t.path, err)
	}
	h := frameHeader{first: first, count: count, length: len(records), sum: checksum(records)}
	t.frame = append(t.frame[:0], make([]byte, frameHeaderSize)...)
	h.put(t.frame)
	t.frame = append(t.frame, records...)
	if _, err := t.file.WriteAt(t.frame, t.size); err != nil {
		return fmt.Errorf("tail %s: %w", t.path, errors.Join(err, t.file.Truncate(t.size)))
	}
	t.size += int64(len(t.frame))
	t.next = first + count
	t.dirty = true
	return nil
}

// clear cuts everything off but the header, and that, too, if it is another boot's.
func (t *tail) clear() error {
	keep := int64(fileHeaderSize)
	if t.foreign {
		keep = 0
	}
	if err := os.Truncate(t.path, keep); err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	t.size, t.foreign, t.dirty = keep, false, t.file != nil
	return nil
}

func (t *tail) sync() error {
	if !t.dirty {
		return nil
	}
	if err := syncFile(t.file, &t.named); err != nil {
		return fmt.Errorf("tail %s: %w", t.path, err)
	}
	t.dirty = false
	return nil
}

func (t *tail) close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}
