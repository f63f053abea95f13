// Package identity holds a node's one key pair and what is made from it.
//
// A node is known by its Ed25519 public key and nothing else: there is no certificate authority. From the same pair
// come the TLS certificate of the QUIC lanes and, converted to X25519, the secret two nodes share for their bond.
//
//   - [Generate], [Load] and [PrivateKey.Save] make, read and write a key file.
//   - [ParsePublicKey] reads a peer's key from configuration.
//   - [PrivateKey.Shared] is the static secret of the bond's datagram keys.
//   - [PrivateKey.TLS] gives both TLS configurations for one peer.
//
// All values are immutable once made and safe for concurrent use.
package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"

	"filippo.io/edwards25519"
)

// KeySize is the length in bytes of a public key and of a private key's seed.
const KeySize = ed25519.PublicKeySize

var (
	// ErrInvalidKey marks text or bytes that are no usable Ed25519 key.
	ErrInvalidKey = errors.New("invalid key")
	// ErrWrongPeer marks a TLS peer that does not hold the configured key.
	ErrWrongPeer = errors.New("peer holds another key")
	// ErrSelf marks an attempt to pair a key with itself.
	ErrSelf = errors.New("peer has this node's own key")
	// ErrPermissions marks a key file others could read.
	ErrPermissions = errors.New("key file is readable by others")
	errZeroKey     = fmt.Errorf("%w: zero private key", ErrInvalidKey)
)

// PublicKey is an Ed25519 public key. The zero value is no valid key; it serves as "none".
type PublicKey [KeySize]byte

// ParsePublicKey reads standard base64 (44 characters). It refuses encodings that are no curve point, are not
// canonical, or lie in the small subgroup, where every shared secret is known to everybody (RFC 7748 section 6.1).
func ParsePublicKey(s string) (PublicKey, error) {
	var k PublicKey
	b, err := decodeKey(s)
	if err != nil {
		return k, fmt.Errorf("public key: %w", err)
	}
	copy(k[:], b)
	if _, err := k.point(); err != nil {
		return PublicKey{}, err
	}
	return k, nil
}

// decodeKey is strict: one spelling for each key, so that keys may be compared as text too.
func decodeKey(s string) ([]byte, error) {
	if want := base64.StdEncoding.EncodedLen(KeySize); len(s) != want {
		return nil, fmt.Errorf("%w: %d characters, want %d of base64", ErrInvalidKey, len(s), want)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidKey, err)
	}
	if len(b) != KeySize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrInvalidKey, len(b), KeySize)
	}
	return b, nil
}

// point decodes k and refuses what must never enter a key agreement.
func (k PublicKey) point() (*edwards25519.Point, error) {
	p, err := new(edwards25519.Point).SetBytes(k[:])
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w: not a point of the curve", k, ErrInvalidKey)
	}
	if !bytes.Equal(p.Bytes(), k[:]) {
		return nil, fmt.Errorf("public key %s: %w: not the canonical encoding", k, ErrInvalidKey)
	}
	if new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, fmt.Errorf("public key %s: %w: point of low order", k, ErrInvalidKey)
	}
	return p, nil
}

// String returns the key in standard base64, as ParsePublicKey reads it.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether k is the zero value.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// Compare orders keys bytewise: -1, 0 or +1. Both nodes of a bond derive their roles from it.
func (k PublicKey) Compare(o PublicKey) int { return bytes.Compare(k[:], o[:]) }

// MarshalText implements encoding.TextMarshaler. The zero key is empty text.
func (k PublicKey) MarshalText() ([]byte, error) {
	if k.IsZero() {
		return nil, nil
	}
	return []byte(k.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler with the rules of ParsePublicKey; empty text is the zero key.
func (k *PublicKey) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*k = PublicKey{}
		return nil
	}
	v, err := ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	*k = v
	return nil
}

// PrivateKey is a node's identity. The zero value is unusable: its methods return errors (Public: the zero key).
// It never prints its secret.
type PrivateKey struct {
	key ed25519.PrivateKey
}

// Generate makes a new key from the system's random source.
func Generate() (PrivateKey, error) {
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("generate key: %w", err)
	}
	return PrivateKey{key: priv}, nil
}

// FromSeed makes the key that a 32-byte seed stands for. The seed is copied.
func FromSeed(seed [KeySize]byte) PrivateKey {
	return PrivateKey{key: ed25519.NewKeyFromSeed(seed[:])}
}

// Public returns the public half.
func (k PrivateKey) Public() PublicKey {
	var p PublicKey
	if k.key != nil {
		copy(p[:], k.key[ed25519.SeedSize:])
	}
	return p
}

// IsZero reports whether k is the zero value.
func (k PrivateKey) IsZero() bool { return k.key == nil }

// String names the key by its public half, so that logging one by mistake gives nothing away.
func (k PrivateKey) String() string { return "private key of " + k.Public().String() }

// GoString keeps %#v from printing the secret.
func (k PrivateKey) GoString() string { return k.String() }

// Format keeps every other verb (%x, %d) from printing the secret.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue keeps structured logs from printing the secret.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Shared returns the X25519 secret (RFC 7748 section 6.1) of this key and peer, both converted from Ed25519: the
// same on both sides, for the life of the keys. It is input for a key derivation, not a key by itself.
func (k PrivateKey) Shared(peer PublicKey) ([32]byte, error) {
	var out [32]byte
	if k.key == nil {
		return out, errZeroKey
	}
	if peer == k.Public() {
		return out, fmt.Errorf("shared secret with %s: %w", peer, ErrSelf)
	}
	p, err := peer.point()
	if err != nil {
		return out, fmt.Errorf("shared secret: %w", err)
	}
	// RFC 8032 section 5.1.5: the scalar is the lower half of the seed's hash; X25519 clamps it.
	h := sha512.Sum512(k.key.Seed())
	priv, err := ecdh.X25519().NewPrivateKey(h[:32])
	if err != nil {
		return out, fmt.Errorf("shared secret with %s: %w", peer, err)
	}
	pub, err := ecdh.X25519().NewPublicKey(p.BytesMontgomery())
	if err != nil {
		return out, fmt.Errorf("shared secret with %s: %w", peer, err)
	}
	secret, err := priv.ECDH(pub)
	if err != nil {
		return out, fmt.Errorf("shared secret with %s: %w", peer, err)
	}
	copy(out[:], secret)
	return out, nil
}
