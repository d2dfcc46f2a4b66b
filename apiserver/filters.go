package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/net"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// recoverPanics answers 500 for a request whose handling panicked; one bad
// request must not stop the server.
func (s *Server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.config.Log.ErrorContext(r.Context(), "request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			http.Error(w, "This request caused apiserver to panic. Look in the logs for details.", http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}

const auditIDHeader = "Audit-Id"

// mostAuditID is how much of an id is kept, as much as kube-apiserver logs.
const mostAuditID = 64

// identify gives the request the id the client sent, or a new one.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(auditIDHeader)
		if id == "" {
			id = uuid.NewString()
		}
		id = id[:min(len(id), mostAuditID)]
		w.Header().Set(auditIDHeader, id)
		next.ServeHTTP(w, r.WithContext(request.Begin(r.Context(), id)))
	})
}

// under is r with a context: itself, if it has that.
func under(ctx context.Context, r *http.Request) *http.Request {
	if r.Context() == ctx {
		return r
	}
	return r.WithContext(ctx)
}

// headers keeps answers out of caches: all depend on who asks.
func (s *Server) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache, private")
		next.ServeHTTP(w, r)
	})
}

// mostPath is how long a path may be. Paths of objects have less than 1,000
// bytes; those of proxied applications have what browsers allow.
const mostPath = 32 << 10

// parse reads what is asked for.
func (s *Server) parse(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.URL.Path) > mostPath {
			http.Error(w, "the path is too long", http.StatusRequestURITooLong)
			return
		}
		info, err := request.Parse(r)
		if err != nil {
			http.Error(w, rest.Short(fmt.Sprintf("Internal Server Error: %q: failed to create RequestInfo: %v", r.RequestURI, err)), http.StatusInternalServerError)
			return
		}
		next.ServeHTTP(w, under(request.With(r.Context(), info), r))
	})
}

// log writes a line per request: for those that failed in the server, and with
// debug logging for all.
func (s *Server) log(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, out := time.Now(), &response{ResponseWriter: w}
		ctx, failure := request.WithFailure(r.Context())
		next.ServeHTTP(out, under(ctx, r))
		level := slog.LevelDebug
		if out.code >= http.StatusInternalServerError && out.code != http.StatusGatewayTimeout {
			level = slog.LevelWarn
		}
		if !s.config.Log.Enabled(r.Context(), level) {
			return
		}
		info := request.From(r.Context())
		s.config.Log.Log(r.Context(), level, "request", "verb", info.Verb, "path", rest.Short(r.URL.RequestURI()), "code", out.code, "took", time.Since(began),
			"agent", rest.Short(r.UserAgent()), "from", r.RemoteAddr, "audit-id", request.AuditID(r.Context()), "error", logged(*failure))
	})
}

// logged is an error as the log has it. One may repeat what another server
// answered, as much as that was.
func logged(err error) any {
	if err == nil {
		return nil
	}
	return rest.Short(err.Error())
}

// limitTime gives requests a deadline, the client's own if it is sooner. A body
// that has not come by then is not waited for; the answer may take AnswerTimeout
// longer.
func (s *Server) limitTime(next http.Handler) http.Handler {
	long := s.endWithServer(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if request.From(r.Context()).IsLongRunning(r) {
			long.ServeHTTP(w, r)
			return
		}
		limit := s.config.Limits.RequestTimeout
		if wish := r.URL.Query().Get("timeout"); r.URL.RawQuery != "" && wish != "" {
			d, err := time.ParseDuration(wish)
			if err != nil {
				w, r := s.auditRefusal(w, r)
				rest.WriteError(w, r, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err)))
				return
			}
			if d > 0 {
				limit = min(limit, d)
			}
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		controller := http.NewResponseController(w)
		// That ctx is over comes first: to end a read over HTTP/1.1 looks like the
		// client's leaving, of which nobody would be told.
		expire := func() { <-ctx.Done(); stopReading(controller)() }
		g := &expiry{pause: s.config.Limits.AnswerTimeout, steps: []func(){expire, stopWriting(controller), cutOff(ctx)}}
		g.start(limit)
		defer g.stop()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// endWithServer serves long-running requests, which end when the server does.
// They have no deadline, but a watch or a backup does not wait long for its
// client to read. Connections do: whoever looks at a log may take a break.
func (s *Server) endWithServer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.stopping, cancel)()
		controller := http.NewResponseController(w)
		controller.SetReadDeadline(time.Time{}) // in process there is none
		controller.SetWriteDeadline(time.Time{})
		if info := request.From(r.Context()); info.Verb == "watch" || info.IsMaintenance() {
			w = &response{ResponseWriter: w, patience: s.config.Limits.RequestTimeout,
				stall: &expiry{pause: s.config.Limits.AnswerTimeout, steps: []func(){stopWriting(controller), cutOff(ctx)}}}
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Warning headers in one answer are cut to this size together.
const (
	mostWarning  = 256
	mostWarnings = 4 * 1024
)

// warn turns warnings into headers (RFC 7234, 5.5, code 299). Long ones are
// cut when there are many.
func (s *Server) warn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size := 0
		ctx := request.WithNotes(r.Context(), func(text string) {
			if size+len(text) > mostWarnings && len(text) > mostWarning {
				text = strings.ToValidUTF8(text[:mostWarning], "")
			}
			header, err := net.NewWarningHeader(299, "-", text)
			if err != nil || size+len(header) > mostWarnings {
				return
			}
			size += len(header)
			w.Header().Add("Warning", header)
		})
		next.ServeHTTP(w, under(ctx, r))
	})
}
