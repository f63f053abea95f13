package bond

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"github.com/landbridge/landbridge/internal/identity"
)

const nonceSize = 12

// secret is what two nodes share for good: the X25519 of their static keys.
type secret struct {
	shared      [32]byte
	local, peer identity.PublicKey
}

// bondID names the bond of two nodes on the wire; both sides derive the same.
func (s *secret) bondID() uint32 {
	return binary.BigEndian.Uint32(s.derive("landbridge bond id", nil, 4))
}

// openAEAD authenticates the handshake of the given sender.
func (s *secret) openAEAD(sender identity.PublicKey) cipher.AEAD {
	return newAEAD(s.derive("landbridge bond open "+string(sender[:]), nil, 16))
}

// sessionAEAD authenticates what sender sends in the session of the two epochs. Both enter the key, so that nothing
// recorded in another session opens in this one.
func (s *secret) sessionAEAD(sender identity.PublicKey, localEpoch, peerEpoch uint64) cipher.AEAD {
	return newAEAD(s.derive("landbridge bond session "+string(sender[:]), s.sessionSalt(localEpoch, peerEpoch), 16))
}

// probeKey authenticates the probes that sender sends on one of its paths in the session of the two epochs.
func (s *secret) probeKey(sender identity.PublicKey, path uint8, localEpoch, peerEpoch uint64) (id uint32, key [16]byte) {
	k := s.derive("landbridge bond probe "+string(sender[:])+string([]byte{path}), s.sessionSalt(localEpoch, peerEpoch), 20)
	return binary.BigEndian.Uint32(k[16:]), [16]byte(k)
}

func (s *secret) sessionSalt(localEpoch, peerEpoch uint64) []byte {
	var salt [16]byte
	lo, hi := localEpoch, peerEpoch
	if s.local.Compare(s.peer) > 0 {
		lo, hi = hi, lo
	}
	binary.BigEndian.PutUint64(salt[:], lo)
	binary.BigEndian.PutUint64(salt[8:], hi)
	return salt[:]
}

func (s *secret) derive(info string, salt []byte, n int) []byte {
	k, err := hkdf.Key(sha256.New, s.shared[:], salt, info, n)
	if err != nil {
		panic(err) // only for lengths over 255 hashes
	}
	return k
}

func newAEAD(key []byte) cipher.AEAD {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key is 16 bytes
	}
	a, err := cipher.NewGCMWithTagSize(b, tagSize)
	if err != nil {
		panic(err) // only for tags under 12 bytes or over 16
	}
	return a
}

// tagger seals and opens datagrams. The payload is QUIC's, already encrypted: only a tag over the whole datagram is
// added. One goroutine at a time, because of the nonce buffer.
type tagger struct{ nonce [nonceSize]byte }

func (t *tagger) session(path uint8, seq uint64) []byte {
	t.nonce = [nonceSize]byte{path}
	binary.BigEndian.PutUint64(t.nonce[4:], seq)
	return t.nonce[:]
}

func (t *tagger) open(epoch uint64, seq uint32) []byte {
	binary.BigEndian.PutUint64(t.nonce[:], epoch)
	binary.BigEndian.PutUint32(t.nonce[8:], seq)
	return t.nonce[:]
}

// seal appends the tag to the datagram b.
func seal(a cipher.AEAD, nonce, b []byte) []byte { return a.Seal(b, nonce, nil, b) }

// verify checks the tag at the end of the datagram b.
func verify(a cipher.AEAD, nonce, b []byte) bool {
	n := len(b) - tagSize
	_, err := a.Open(b[n:n], nonce, b[n:], b[:n])
	return err == nil
}

// replayWindow remembers which of the last replayBits numbers were seen (RFC 6479 in spirit). The zero value has seen
// nothing.
type replayWindow struct {
	top  uint64 // largest seen plus one; 0: none
	bits [replayBits / 64]uint64
}

// replayBits bounds how late a datagram may come: 2048 packets are 0.3 s at 80 Mbit/s on one path.
const replayBits = 2048

// fresh tells whether seq is new, without noting it.
func (w *replayWindow) fresh(seq uint64) bool {
	if seq >= w.top {
		return true
	}
	if w.top-seq > replayBits {
		return false
	}
	return w.bits[seq/64%(replayBits/64)]&(1<<(seq%64)) == 0
}

// note marks seq as seen.
func (w *replayWindow) note(seq uint64) {
	if seq >= w.top {
		if seq-w.top >= replayBits {
			w.bits = [replayBits / 64]uint64{}
		} else {
			for s := w.top; s <= seq; s++ {
				w.bits[s/64%(replayBits/64)] &^= 1 << (s % 64)
			}
		}
		w.top = seq + 1
	}
	w.bits[seq/64%(replayBits/64)] |= 1 << (seq % 64)
}

// missing tells whether seq, inside the window and under top, was not seen.
func (w *replayWindow) missing(seq uint64) bool {
	return w.bits[seq/64%(replayBits/64)]&(1<<(seq%64)) == 0
}
