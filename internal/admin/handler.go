package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves a node's state, all of it with GET:
//
//	/status            Status
//	/paths             Paths
//	/events?after=SEQ  Events
//	/explain?flow=FLOW Explanation; FLOW as ParseFlow reads it
//	/decisions         the log of decisions, a pathsel.Record a line
//	/metrics           Prometheus
func Handler(source Source) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{source})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, source.Status().finite()) })
	if source.Paths != nil {
		mux.HandleFunc("GET /paths", func(w http.ResponseWriter, _ *http.Request) { answer(w, source.Paths().finite()) })
	}
	if source.Events != nil {
		mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
			var after uint64
			if s := r.URL.Query().Get("after"); s != "" {
				var err error
				if after, err = strconv.ParseUint(s, 10, 64); err != nil {
					http.Error(w, "after: want a number", http.StatusBadRequest)
					return
				}
			}
			e := source.Events.After(after)
			e.Node = source.Status().Node
			answer(w, e)
		})
	}
	if source.Explain != nil {
		mux.HandleFunc("GET /explain", func(w http.ResponseWriter, r *http.Request) {
			q, err := ParseFlow(r.URL.Query().Get("flow"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			x, err := source.Explain(q)
			switch {
			case errors.Is(err, ErrNoFlow):
				w.Header().Set(noFlowHeader, "1")
				http.Error(w, err.Error(), http.StatusNotFound)
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
			default:
				answer(w, x)
			}
		})
	}
	if source.Decisions != nil {
		mux.HandleFunc("GET /decisions", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			_ = source.Decisions(w) // the client sees a short answer
		})
	}
	return mux
}

// noFlowHeader tells a flow that is not there from a node that cannot explain, which is 404 too.
const noFlowHeader = "Landbridge-No-Flow"

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
