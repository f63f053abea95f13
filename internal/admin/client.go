package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/landbridge/landbridge/internal/hint"
)

// Client asks one node again and again over one connection. Safe for concurrent use. Close it.
type Client struct{ tr *http.Transport }

// NewClient returns a client for the node behind a socket; it connects with the first question.
func NewClient(path string) *Client {
	return &Client{&http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
}

// Close closes the connection.
func (c *Client) Close() { c.tr.CloseIdleConnections() }

// Fetch reads the status of the node behind a socket.
func Fetch(ctx context.Context, path string) (Status, error) {
	c := NewClient(path)
	defer c.Close()
	return c.Fetch(ctx)
}

// Fetch reads the node's status.
func (c *Client) Fetch(ctx context.Context) (st Status, err error) {
	return st, c.get(ctx, "status", nil, &st)
}

// Paths reads what the node knows of its paths.
func (c *Client) Paths(ctx context.Context) (p Paths, err error) {
	return p, c.get(ctx, "paths", nil, &p)
}

// Events reads the events after a number.
func (c *Client) Events(ctx context.Context, after uint64) (e Events, err error) {
	return e, c.get(ctx, "events", url.Values{"after": {strconv.FormatUint(after, 10)}}, &e)
}

// Explain asks where flows go and why; the error wraps ErrNoFlow where the node has none such.
func (c *Client) Explain(ctx context.Context, q FlowQuery) (x Explanation, err error) {
	return x, c.get(ctx, "explain", url.Values{"flow": {q.String()}}, &x)
}

// Decisions copies the node's log of decisions.
func (c *Client) Decisions(ctx context.Context, w io.Writer) error {
	return c.ask(ctx, "decisions", nil, func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
}

func (c *Client) get(ctx context.Context, what string, query url.Values, into any) error {
	return c.ask(ctx, what, query, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, into)
	})
}

func (c *Client) ask(ctx context.Context, what string, query url.Values, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/"+what+"?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	resp, err := c.tr.RoundTrip(req)
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			err = hint.With(err, "is the node running? name its socket with --socket")
		case errors.Is(err, fs.ErrPermission):
			err = hint.With(err, "run this as the node's user or as root")
		}
		return err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxStatus)
	switch {
	case resp.StatusCode == http.StatusOK:
		if err := read(body); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case resp.Header.Get(noFlowHeader) != "":
		return ErrNoFlow
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: the node does not show this", what)
	}
	text, _ := io.ReadAll(io.LimitReader(body, 1024))
	return fmt.Errorf("%s: the node answers %s: %s", what, resp.Status, strings.TrimSpace(clean(string(text))))
}
