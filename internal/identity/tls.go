package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/landbridge/landbridge/internal/hint"
)

// ALPN is the application protocol both sides must speak.
const ALPN = "landbridge/1"

// TLS returns the configurations for a lane's QUIC connection with the node that holds peer, for either role.
//
// TLS 1.3, mutual, and the certificate on each side only carries the key: names, dates and issuers are not looked at,
// because the pinned key says all there is to say and a wrong clock must not cut the tunnel. Resumption is off, so
// every connection proves the key again. The configurations are not shared with other calls; the caller may change
// them.
func (k PrivateKey) TLS(peer PublicKey) (client, server *tls.Config, err error) {
	if k.key == nil {
		return nil, nil, errZeroKey
	}
	if peer == k.Public() {
		return nil, nil, fmt.Errorf("tls with %s: %w", peer, ErrSelf)
	}
	if _, err := peer.point(); err != nil {
		return nil, nil, fmt.Errorf("tls: %w", err)
	}
	cert, err := k.certificate()
	if err != nil {
		return nil, nil, err
	}
	base := func() *tls.Config {
		return &tls.Config{
			MinVersion:             tls.VersionTLS13,
			Certificates:           []tls.Certificate{cert},
			NextProtos:             []string{ALPN},
			SessionTicketsDisabled: true,
			VerifyConnection:       func(cs tls.ConnectionState) error { return pin(cs, peer) },
		}
	}
	client, server = base(), base()
	client.InsecureSkipVerify = true // no authorities here: pin does the verification
	server.ClientAuth = tls.RequireAnyClientCert
	return client, server, nil
}

// pin runs at the end of every handshake, after TLS has checked that the peer owns the certificate's key.
func pin(cs tls.ConnectionState, want PublicKey) error {
	if cs.NegotiatedProtocol != ALPN {
		return fmt.Errorf("tls: peer speaks %q, want %q", cs.NegotiatedProtocol, ALPN)
	}
	if n := len(cs.PeerCertificates); n != 1 {
		return fmt.Errorf("tls: peer sent %d certificates, want 1", n)
	}
	pub, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(pub) != KeySize {
		return fmt.Errorf("tls: %w: certificate key is %T, want Ed25519 %s", ErrWrongPeer, cs.PeerCertificates[0].PublicKey, want)
	}
	if got := PublicKey(pub); got != want {
		return hint.With(fmt.Errorf("tls: %w: expected %s, received %s", ErrWrongPeer, want, got),
			"compare the peer's key file (landbridge keygen --public FILE) with its public_key in the configuration")
	}
	return nil
}

func (k PrivateKey) certificate() (tls.Certificate, error) {
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "landbridge"}, // no node name: a certificate tells a stranger nothing
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 section 4.1.2.5: no expiry
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.key.Public(), k.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("tls certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.key}, nil
}
