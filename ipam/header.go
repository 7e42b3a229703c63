package ipam

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
)

const (
	magic      = "HFLEASE\n"
	version    = 1
	headerSize = 4096 // a page, so that slots are aligned whatever a later version adds
	maxBootID  = 64
	bootIDFile = "/proc/sys/kernel/random/boot_id"
)

// header is the first page of the lease file. It is written when the file is made and once a boot.
type header struct {
	generation uint64 // counts boots; a lease written under an earlier one belongs to a container that is gone
	bootID     string
}

// Offsets in the header; numbers are little-endian.
const (
	hdrVersion    = 8
	hdrSlotSize   = 12
	hdrGeneration = 16
	hdrBootIDLen  = 24
	hdrBootID     = 25
	hdrSum        = headerSize - 4 // CRC32C of all that precedes
)

func (h header) encode() []byte {
	buf := make([]byte, headerSize)
	copy(buf, magic)
	binary.LittleEndian.PutUint32(buf[hdrVersion:], version)
	binary.LittleEndian.PutUint32(buf[hdrSlotSize:], slotSize)
	binary.LittleEndian.PutUint64(buf[hdrGeneration:], h.generation)
	buf[hdrBootIDLen] = byte(len(h.bootID))
	copy(buf[hdrBootID:hdrBootID+maxBootID], h.bootID)
	binary.LittleEndian.PutUint32(buf[hdrSum:], crc32.Checksum(buf[:hdrSum], castagnoli))
	return buf
}

// decodeHeader returns an ErrUnreadable for a page that this version does not understand.
func decodeHeader(buf []byte) (header, error) {
	if len(buf) < headerSize || string(buf[:len(magic)]) != magic {
		return header{}, fmt.Errorf("%w: it does not begin as one", ErrUnreadable)
	}
	if v := binary.LittleEndian.Uint32(buf[hdrVersion:]); v != version {
		return header{}, fmt.Errorf("%w: it has version %d, this program knows version %d", ErrUnreadable, v, version)
	}
	if n := binary.LittleEndian.Uint32(buf[hdrSlotSize:]); n != slotSize {
		return header{}, fmt.Errorf("%w: its slots have %d bytes, this program's %d", ErrUnreadable, n, slotSize)
	}
	n := int(buf[hdrBootIDLen])
	if crc32.Checksum(buf[:hdrSum], castagnoli) != binary.LittleEndian.Uint32(buf[hdrSum:]) || n > maxBootID {
		return header{}, fmt.Errorf("%w: its header is damaged", ErrUnreadable)
	}
	return header{
		generation: binary.LittleEndian.Uint64(buf[hdrGeneration:]),
		bootID:     string(buf[hdrBootID : hdrBootID+n]),
	}, nil
}

// kernelBootID returns the id the kernel drew when it started.
func kernelBootID() (string, error) {
	b, err := os.ReadFile(bootIDFile)
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
