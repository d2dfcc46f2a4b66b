package apiserver

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// accessMetrics are about who asks, and whether they may. Requests from within the process show nothing by which they would
// have to be authenticated. The names are kube-apiserver's.
type accessMetrics struct {
	users                         map[string]prometheus.Counter
	authentication, authorization map[string]outcome
	certificates                  prometheus.Histogram
}

// outcome counts the attempts with one result.
type outcome struct {
	count   prometheus.Counter
	seconds prometheus.Observer
}

func (o outcome) took(began time.Time) {
	o.count.Inc()
	o.seconds.Observe(time.Since(began).Seconds())
}

// Results of attempts.
const (
	resultSuccess, resultFailure, resultError    = "success", "failure", "error"
	resultAllowed, resultDenied, resultNoOpinion = "allowed", "denied", "no-opinion"
)

// countedUsers are the users that are counted each, as kube-apiserver has it, and otherUsers are those that are not: anybody can have a name.
var countedUsers = []string{"admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default", otherUsers}

const otherUsers = "other"

func newAccessMetrics(registry prometheus.Registerer) *accessMetrics {
	users := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "authenticated_user_requests", Help: "Requests of users that were authenticated, by those whose names any cluster has."}, []string{"username"})
	certificates := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "apiserver_client_certificate_expiration_seconds", Help: "How long the certificates last that clients show.",
		Buckets: []float64{0, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 345600, 604800, 2592000, 7776000, 15552000, 31104000}})
	m := &accessMetrics{users: make(map[string]prometheus.Counter), certificates: certificates}
	for _, name := range countedUsers {
		m.users[name] = users.WithLabelValues(name)
	}
	if registry != nil {
		registry.MustRegister(users, certificates)
	}
	m.authentication = outcomesOf(registry, "authentication_attempts", "authentication_duration_seconds", "authentication", resultSuccess, resultFailure, resultError)
	m.authorization = outcomesOf(registry, "authorization_attempts_total", "authorization_duration_seconds", "authorization", resultAllowed, resultDenied, resultNoOpinion, resultError)
	return m
}

func outcomesOf(registry prometheus.Registerer, count, duration, what string, results ...string) map[string]outcome {
	counts := prometheus.NewCounterVec(prometheus.CounterOpts{Name: count, Help: "Attempts at " + what + ", by what came of them."}, []string{"result"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: duration, Help: "How long attempts at " + what + " took.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, []string{"result"})
	if registry != nil {
		registry.MustRegister(counts, seconds)
	}
	all := make(map[string]outcome)
	for _, result := range results {
		all[result] = outcome{counts.WithLabelValues(result), seconds.WithLabelValues(result)}
	}
	return all
}

// authenticated counts what came of an attempt to find out who sent r.
func (m *accessMetrics) authenticated(r *http.Request, began time.Time, answer *authenticator.Response, ok bool, err error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		m.certificates.Observe(r.TLS.PeerCertificates[0].NotAfter.Sub(began).Seconds())
	}
	switch {
	case err != nil:
		m.authentication[resultError].took(began)
	case !ok:
		m.authentication[resultFailure].took(began)
	default:
		m.authentication[resultSuccess].took(began)
		user := m.users[answer.User.GetName()]
		if user == nil {
			user = m.users[otherUsers]
		}
		user.Inc()
	}
}

// authorized counts a decision.
func (m *accessMetrics) authorized(began time.Time, decision authorizer.Decision, err error) {
	result := resultNoOpinion
	switch {
	case decision == authorizer.DecisionAllow:
		result = resultAllowed
	case err != nil:
		result = resultError
	case decision == authorizer.DecisionDeny:
		result = resultDenied
	}
	m.authorization[result].took(began)
}
