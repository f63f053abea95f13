package identity

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/landbridge/landbridge/internal/hint"
)

// maxKeyFile bounds what Load reads: a key and its comment lines, not whatever file was named by mistake.
const maxKeyFile = 4096

// Load reads a private key written by Save: one line of base64, with optional comment lines that start with '#'.
// It refuses a file that group or others may read or write (ErrPermissions): a key that has been readable is no
// longer a secret.
func Load(path string) (PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		err = fmt.Errorf("load key: %w", err)
		if errors.Is(err, fs.ErrNotExist) {
			err = hint.With(err, "make one with: landbridge keygen %s", path)
		}
		return PrivateKey{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return PrivateKey{}, fmt.Errorf("load key: %w", err)
	}
	if !st.Mode().IsRegular() {
		return PrivateKey{}, fmt.Errorf("load key %s: not a regular file (%s)", path, st.Mode().Type())
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return PrivateKey{}, hint.With(fmt.Errorf("load key %s: %w: mode %04o, want 0600", path, ErrPermissions, perm),
			"chmod 600 %s, and make a new key if others use this machine", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return PrivateKey{}, fmt.Errorf("load key: %w", err)
	}
	k, err := parsePrivate(data)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("load key %s: %w", path, err)
	}
	return k, nil
}

// parsePrivate never puts the file's content into an error: it may be a secret of another kind.
func parsePrivate(data []byte) (PrivateKey, error) {
	if len(data) > maxKeyFile {
		return PrivateKey{}, fmt.Errorf("%w: longer than %d bytes", ErrInvalidKey, maxKeyFile)
	}
	var text string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if text != "" {
			return PrivateKey{}, fmt.Errorf("%w: more than one line", ErrInvalidKey)
		}
		text = line
	}
	if text == "" {
		return PrivateKey{}, fmt.Errorf("%w: the file is empty", ErrInvalidKey)
	}
	b, err := decodeKey(text)
	if err != nil {
		return PrivateKey{}, err
	}
	return FromSeed([KeySize]byte(b)), nil
}

func (k PrivateKey) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# landbridge private key; its public key is %s\n", k.Public())
	b.WriteString(base64.StdEncoding.EncodeToString(k.key.Seed()))
	b.WriteByte('\n')
	return b.Bytes()
}

// Save writes the key to a new file with mode 0600. It refuses to overwrite: the old key may be a live node's.
func (k PrivateKey) Save(path string) error {
	if k.key == nil {
		return fmt.Errorf("save key: %w", errZeroKey)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		err = fmt.Errorf("save key: %w", err)
		if errors.Is(err, fs.ErrExist) {
			err = hint.With(err, "name another file, or remove %s once no node uses it", path)
		}
		return err
	}
	_, err = f.Write(k.encode())
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path) // ours: O_EXCL made it; half a key helps nobody
		return fmt.Errorf("save key: %w", err)
	}
	return nil
}
