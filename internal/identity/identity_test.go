package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/internal/hint"
)

func gen(t testing.TB) PrivateKey {
	t.Helper()
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The vector is libsodium's for crypto_sign_ed25519_pk_to_curve25519 (test/default/ed25519_convert.exp).
func TestConversionVector(t *testing.T) {
	seed, _ := hex.DecodeString("421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee")
	k := FromSeed([32]byte(seed))
	p, err := k.Public().point()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(p.BytesMontgomery()), "f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50"; got != want {
		t.Errorf("u = %s, want %s", got, want)
	}
}

// The map is u = (1+y)/(1-y) mod 2^255-19 (RFC 7748 section 4.1); here in big integers.
func TestConversionOracle(t *testing.T) {
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	for range 50 {
		pub := gen(t).Public()
		p, err := pub.point()
		if err != nil {
			t.Fatal(err)
		}
		le := bytes.Clone(pub[:])
		le[31] &= 0x7f
		reverse(le)
		y := new(big.Int).SetBytes(le)
		num := new(big.Int).Add(big.NewInt(1), y)
		den := new(big.Int).Sub(big.NewInt(1), y)
		u := num.Mul(num, den.ModInverse(den.Mod(den, prime), prime))
		u.Mod(u, prime)
		want := u.FillBytes(make([]byte, 32))
		reverse(want)
		if got := p.BytesMontgomery(); !bytes.Equal(got, want) {
			t.Fatalf("key %s: u = %x, want %x", pub, got, want)
		}
	}
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}

func TestSharedAgrees(t *testing.T) {
	a, b, c := gen(t), gen(t), gen(t)
	ab, err := a.Shared(b.Public())
	if err != nil {
		t.Fatal(err)
	}
	ba, err := b.Shared(a.Public())
	if err != nil {
		t.Fatal(err)
	}
	ac, err := a.Shared(c.Public())
	if err != nil {
		t.Fatal(err)
	}
	if ab != ba {
		t.Error("the two sides derive different secrets")
	}
	if ab == ac || ab == [32]byte{} {
		t.Error("the secret does not depend on the peer")
	}
}

// badPoints are encodings that decode, or almost, and must not be accepted: the eight torsion points and their
// non-canonical spellings, and a y that is on no curve point.
var badPoints = map[string]string{
	"identity":            "0100000000000000000000000000000000000000000000000000000000000000",
	"order 2":             "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"order 4, zero key":   "0000000000000000000000000000000000000000000000000000000000000000",
	"order 4, sign":       "0000000000000000000000000000000000000000000000000000000000000080",
	"order 8 a":           "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"order 8 a sign":      "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"order 8 b":           "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"order 8 b sign":      "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"not canonical y=p":   "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"not canonical y=p+1": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"identity, sign":      "0100000000000000000000000000000000000000000000000000000000000080",
	"no point":            "0200000000000000000000000000000000000000000000000000000000000000",
}

func TestBadPointsRefused(t *testing.T) {
	k := gen(t)
	for name, h := range badPoints {
		t.Run(name, func(t *testing.T) {
			b, _ := hex.DecodeString(h)
			pub := PublicKey(b)
			if _, err := ParsePublicKey(base64.StdEncoding.EncodeToString(b)); !errors.Is(err, ErrInvalidKey) {
				t.Errorf("parse: %v", err)
			}
			if s, err := k.Shared(pub); !errors.Is(err, ErrInvalidKey) || s != [32]byte{} {
				t.Errorf("shared: %x, %v", s, err)
			}
			if _, _, err := k.TLS(pub); !errors.Is(err, ErrInvalidKey) {
				t.Errorf("tls: %v", err)
			}
		})
	}
}

func TestParsePublicKeyText(t *testing.T) {
	good := gen(t).Public()
	if got, err := ParsePublicKey(good.String()); err != nil || got != good {
		t.Fatalf("round trip: %v, %v", got, err)
	}
	// The sample in the documentation stays valid.
	if _, err := ParsePublicKey("q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k="); err != nil {
		t.Error(err)
	}
	s := good.String()
	for name, text := range map[string]string{
		"empty": "", "short": s[:40], "long": s + "AAAA", "url alphabet": "-" + s[1:], "unpadded": s[:43],
		"newline": s + "\n", "space": " " + s[:43], "stray bits": s[:42] + "9=",
	} {
		if _, err := ParsePublicKey(text); !errors.Is(err, ErrInvalidKey) {
			t.Errorf("%s: %q: %v", name, text, err)
		}
	}
}

func TestPublicKeyJSON(t *testing.T) {
	type doc struct{ A, B PublicKey }
	in := doc{A: gen(t).Public()}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out doc
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%s -> %v, %v", b, out, err)
	}
	if err := json.Unmarshal([]byte(`{"A":"AAAA"}`), &out); !errors.Is(err, ErrInvalidKey) {
		t.Errorf("bad text: %v", err)
	}
}

func TestCompare(t *testing.T) {
	a, b := PublicKey{1}, PublicKey{1, 0, 1}
	if a.Compare(b) != -1 || b.Compare(a) != 1 || a.Compare(a) != 0 {
		t.Error("not the bytewise order")
	}
}

func TestSecretNeverPrinted(t *testing.T) {
	k := gen(t)
	seed := k.key.Seed()
	forms := []string{base64.StdEncoding.EncodeToString(seed), hex.EncodeToString(seed), fmt.Sprint(seed), strings.ToUpper(hex.EncodeToString(seed))}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k)
	for _, out := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %x %X %d %s %q", k, k, k, k, k, k, k), fmt.Sprintf("%v", &k), log.String()} {
		for _, f := range forms {
			if strings.Contains(out, f) {
				t.Errorf("secret in %q", out)
			}
		}
		if !strings.Contains(out, k.Public().String()) {
			t.Errorf("%q does not name the public key", out)
		}
	}
}

func TestZeroKey(t *testing.T) {
	var k PrivateKey
	peer := gen(t).Public()
	if _, err := k.Shared(peer); !errors.Is(err, ErrInvalidKey) {
		t.Error(err)
	}
	if _, _, err := k.TLS(peer); !errors.Is(err, ErrInvalidKey) {
		t.Error(err)
	}
	if err := k.Save(filepath.Join(t.TempDir(), "k")); !errors.Is(err, ErrInvalidKey) {
		t.Error(err)
	}
	if !k.Public().IsZero() || !k.IsZero() {
		t.Error("the zero key has a public half")
	}
}

func TestOwnKeyAsPeer(t *testing.T) {
	k := gen(t)
	if _, err := k.Shared(k.Public()); !errors.Is(err, ErrSelf) {
		t.Error(err)
	}
	if _, _, err := k.TLS(k.Public()); !errors.Is(err, ErrSelf) {
		t.Error(err)
	}
}

func TestFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sha.key")
	k := gen(t)
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o", st.Mode().Perm())
	}
	got, err := Load(path)
	if err != nil || got.Public() != k.Public() || !bytes.Equal(got.key, k.key) {
		t.Fatalf("load: %v, %v", got, err)
	}
	err = gen(t).Save(path)
	if !errors.Is(err, fs.ErrExist) || hint.Of(err) == "" {
		t.Errorf("overwrite: %v (hint %q)", err, hint.Of(err))
	}
	if again, _ := Load(path); again.Public() != k.Public() {
		t.Error("the refused save changed the file")
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	line := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	for _, tc := range []struct {
		name, body string
		mode       os.FileMode
		want       error
	}{
		{"group readable", line, 0o640, ErrPermissions},
		{"world readable", line, 0o604, ErrPermissions},
		{"group writable", line, 0o620, ErrPermissions},
		{"empty", "", 0o600, ErrInvalidKey},
		{"comment only", "# nothing\n\n", 0o600, ErrInvalidKey},
		{"two keys", line + "\n" + line, 0o600, ErrInvalidKey},
		{"short", line[:20], 0o600, ErrInvalidKey},
		{"huge", strings.Repeat("#\n", maxKeyFile), 0o600, ErrInvalidKey},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(tc.name, " ", "-"))
			if err := os.WriteFile(path, []byte(tc.body), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tc.mode); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if strings.Contains(err.Error(), line[:20]) {
				t.Errorf("the file's content is in the error: %v", err)
			}
		})
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory was read as a key")
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(hint.Of(err), "keygen") {
		t.Errorf("missing file: %v (hint %q)", err, hint.Of(err))
	}
}

func FuzzPrivateKeyFile(f *testing.F) {
	k := FromSeed([32]byte{1, 2, 3})
	f.Add(k.encode())
	f.Add([]byte("# only a comment"))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := parsePrivate(data)
		if err != nil {
			if !errors.Is(err, ErrInvalidKey) {
				t.Fatalf("unmarked error %v", err)
			}
			return
		}
		again, err := parsePrivate(k.encode())
		if err != nil || again.Public() != k.Public() {
			t.Fatalf("round trip: %v", err)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(FromSeed([32]byte{1}).Public().String())
	for _, h := range badPoints {
		b, _ := hex.DecodeString(h)
		f.Add(base64.StdEncoding.EncodeToString(b))
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParsePublicKey(s)
		if err != nil {
			return
		}
		if k.String() != s {
			t.Fatalf("two spellings of one key: %q and %q", s, k)
		}
		if _, err := FromSeed([32]byte{9}).Shared(k); err != nil {
			t.Fatalf("accepted %s but cannot use it: %v", s, err)
		}
	})
}

// handshake runs both ends over a pipe and returns both errors.
func handshake(t *testing.T, client, server *tls.Config) (cerr, serr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(time.Minute) // only against hanging
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		c := tls.Server(b, server)
		err := c.Handshake()
		if err == nil {
			_, err = c.Write([]byte("x"))
		}
		b.Close()
		done <- err
	}()
	c := tls.Client(a, client)
	cerr = c.Handshake()
	if cerr == nil { // the server's verdict on our certificate arrives with the first read
		_, cerr = c.Read(make([]byte, 1))
	}
	a.Close()
	return cerr, <-done
}

func TestTLSPinned(t *testing.T) {
	a, b, eve := gen(t), gen(t), gen(t)
	must := func(k PrivateKey, peer PublicKey) (*tls.Config, *tls.Config) {
		c, s, err := k.TLS(peer)
		if err != nil {
			t.Fatal(err)
		}
		return c, s
	}
	aClient, _ := must(a, b.Public())
	_, bServer := must(b, a.Public())
	if cerr, serr := handshake(t, aClient, bServer); cerr != nil || serr != nil {
		t.Fatalf("right keys: client %v, server %v", cerr, serr)
	}

	t.Run("client refuses another server", func(t *testing.T) {
		_, eveServer := must(eve, a.Public())
		cerr, _ := handshake(t, aClient, eveServer)
		if !errors.Is(cerr, ErrWrongPeer) || !strings.Contains(cerr.Error(), b.Public().String()) || !strings.Contains(cerr.Error(), eve.Public().String()) {
			t.Errorf("client: %v", cerr)
		}
		if hint.Of(cerr) == "" {
			t.Error("no hint")
		}
	})
	t.Run("server refuses another client", func(t *testing.T) {
		eveClient, _ := must(eve, b.Public())
		cerr, serr := handshake(t, eveClient, bServer)
		if !errors.Is(serr, ErrWrongPeer) || !strings.Contains(serr.Error(), eve.Public().String()) {
			t.Errorf("server: %v", serr)
		}
		if cerr == nil {
			t.Error("the client did not notice")
		}
	})
	t.Run("server refuses a client without certificate", func(t *testing.T) {
		bare := aClient.Clone()
		bare.Certificates = nil
		if _, serr := handshake(t, bare, bServer); serr == nil {
			t.Error("accepted")
		}
	})
	t.Run("other kinds of key", func(t *testing.T) {
		ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, ec.Public(), ec)
		if err != nil {
			t.Fatal(err)
		}
		other := aClient.Clone()
		other.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: ec}}
		if _, serr := handshake(t, other, bServer); !errors.Is(serr, ErrWrongPeer) {
			t.Errorf("server: %v", serr)
		}
	})
	t.Run("a stolen certificate proves nothing", func(t *testing.T) {
		// Eve presents A's certificate but can only sign with her own key.
		thief := aClient.Clone()
		thief.Certificates = []tls.Certificate{{Certificate: aClient.Certificates[0].Certificate, PrivateKey: ed25519.PrivateKey(eve.key)}}
		if _, serr := handshake(t, thief, bServer); serr == nil {
			t.Error("accepted")
		}
	})
	t.Run("old versions and other protocols", func(t *testing.T) {
		old := aClient.Clone()
		old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if cerr, serr := handshake(t, old, bServer); cerr == nil || serr == nil {
			t.Errorf("TLS 1.2: client %v, server %v", cerr, serr)
		}
		alpn := aClient.Clone()
		alpn.NextProtos = nil
		if _, serr := handshake(t, alpn, bServer); serr == nil {
			t.Error("no ALPN: accepted")
		}
	})
	t.Run("a wrong clock does not matter", func(t *testing.T) {
		c, s := aClient.Clone(), bServer.Clone()
		c.Time = func() time.Time { return time.Unix(10, 0) }
		s.Time = func() time.Time { return time.Unix(1<<40, 0) }
		if cerr, serr := handshake(t, c, s); cerr != nil || serr != nil {
			t.Errorf("client %v, server %v", cerr, serr)
		}
	})
}
