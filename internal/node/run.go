package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/internal/journal"
)

// Roles of a node.
const (
	RoleGateway = "gateway"
	RoleAgent   = "agent"
)

// RunGateway runs the named gateway of a fleet document until ctx ends. socket "" is the default.
func RunGateway(ctx context.Context, fleetPath, name, keyPath, socket string, decisions journal.Config, log *slog.Logger) error {
	key, err := identity.Load(keyPath)
	if err != nil {
		return cli.Usage(err)
	}
	load := func() (*config.NodeConfig, Options, error) {
		opts := Options{Role: RoleGateway, Key: key, Log: log, Decisions: decisions}
		fleet, err := config.Load(fleetPath)
		if err != nil {
			return nil, opts, err
		}
		cfg, err := fleet.Node(name)
		if err != nil {
			return nil, opts, err
		}
		if got := key.Public(); got != cfg.PublicKey {
			err := fmt.Errorf("key %s has public key %s, but %s says that %s has %s", keyPath, got, fleetPath, name, cfg.PublicKey)
			return nil, opts, cli.Usage(hint.With(err, "give the key of %s with --key, or put its public key into the document", name))
		}
		return cfg, opts, nil
	}
	return run(ctx, load, socket, log)
}

// RunAgent runs the agent of a file until ctx ends. socket "" is the default.
func RunAgent(ctx context.Context, path, socket string, decisions journal.Config, log *slog.Logger) error {
	local, err := config.SystemInterfaces()
	if err != nil {
		return err
	}
	return run(ctx, agentLoader(path, decisions, local, log), socket, log)
}

// agentLoader reads an agent's file. local are the interfaces at the start, and stay that: if pairs of uplinks and addresses
// came and went with the addresses of interfaces, a reload would end all flows because one is there by now.
func agentLoader(path string, decisions journal.Config, local []config.Interface, log *slog.Logger) func() (*config.NodeConfig, Options, error) {
	return func() (*config.NodeConfig, Options, error) {
		opts := Options{Role: RoleAgent, Log: log, Decisions: decisions}
		file, err := config.LoadAgent(path)
		if err != nil {
			return nil, opts, err
		}
		if opts.Key, err = identity.Load(file.Key); err != nil {
			return nil, opts, cli.Usage(err)
		}
		opts.SOCKS5, opts.HTTPConnect = file.SOCKS5, file.HTTPConnect
		cfg, err := file.Node(local)
		return cfg, opts, err
	}
}

// run starts the node, serves its status and reloads it at each SIGHUP.
func run(ctx context.Context, load func() (*config.NodeConfig, Options, error), socket string, log *slog.Logger) (err error) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	cfg, opts, err := load()
	if err != nil {
		return err
	}
	local, err := config.SystemInterfaces()
	if err != nil {
		return err
	}
	if _, err := config.CheckLocal(cfg, local); err != nil { // Start tells what is late
		return err
	}
	n, err := Start(ctx, cfg, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWithin(n, stopTimeout)) }()
	if socket == "" {
		socket = admin.DefaultSocket(cfg.Name)
	}
	srv, err := admin.Start(socket, n.Source())
	if err != nil {
		if errors.Is(err, admin.ErrRunning) {
			err = hint.With(err, "another %s runs as %s; stop it, or give this one another --socket", opts.Role, cfg.Name)
		}
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	log.Info("running", "node", cfg.Name, "role", opts.Role, "version", cli.Version(), "peers", len(cfg.Peers), "socket", socket)
	for {
		select {
		case <-ctx.Done():
			log.Info("stopping")
			return nil
		case <-hup:
			cfg, opts, err := load()
			if err == nil {
				err = n.Reload(cfg, opts)
			}
			if err != nil {
				log.Error("reload refused; the node goes on as it was", "err", firstLine(err), "hint", hint.Of(err))
				continue
			}
			log.Info("reloaded", "peers", len(cfg.Peers), "routes", len(cfg.Routes))
		}
	}
}

// stopTimeout bounds a clean stop. It takes a second at the most when all is well; a service manager waits longer.
const stopTimeout = 10 * time.Second

func closeWithin(n io.Closer, d time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- n.Close() }()
	select {
	case err := <-done:
		return err
	case <-time.After(d):
		return fmt.Errorf("stop: not everything has ended within %v", d)
	}
}

// firstLine keeps a document's many problems on one line of the log.
func firstLine(err error) string {
	first, rest, more := strings.Cut(err.Error(), "\n")
	if more {
		first += fmt.Sprintf(" (and %d more; landbridge check shows all)", strings.Count(rest, "\n")+1)
	}
	return first
}

// proxyHint says what can be done about a proxy that could not listen.
func proxyHint(err error, key, addr string) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Sprintf("another program has %s; find it with: ss -ltnp, or give %s another port", addr, key)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Sprintf("%s is no address of this machine; correct %s in the agent's file", addr, key)
	case errors.Is(err, unix.EACCES):
		return fmt.Sprintf("give %s a port above 1023, or the program CAP_NET_BIND_SERVICE", key)
	}
	return ""
}

// listenHint says what can be done about an uplink that could not be opened.
func listenHint(err error, u config.NodeUplink) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Sprintf("another program has %s; find it with: ss -lunp", u.Address)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Sprintf("%s is not an address of this machine; give it to %s or correct the document", u.Address.Addr(), u.Interface)
	case errors.Is(err, unix.EPERM):
		return "run as root or with CAP_NET_RAW, which binding to an interface needs"
	case errors.Is(err, unix.ENODEV):
		return fmt.Sprintf("there is no interface %s; list them with: ip link", u.Interface)
	}
	return "see: landbridge doctor"
}
