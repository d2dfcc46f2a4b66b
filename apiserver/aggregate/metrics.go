package aggregate

import (
	"github.com/prometheus/client_golang/prometheus"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// metrics tell which APIServices are available, under the names of
// kube-apiserver.
type metrics struct {
	unavailable *prometheus.GaugeVec
	became      *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) metrics {
	m := metrics{
		unavailable: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "aggregator_unavailable_apiservice",
			Help: "Gauge of APIServices which are marked as unavailable broken down by APIService name."}, []string{"name"}),
		became: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "aggregator_unavailable_apiservice_total",
			Help: "Counter of APIServices which are marked as unavailable broken down by APIService name and reason."}, []string{"name", "reason"}),
	}
	registry.MustRegister(m.unavailable, m.became)
	return m
}

// seen takes in an APIService that was as was, which is nil if it is new.
func (m metrics) seen(was, now *apiService) {
	value, c := 0.0, helper.GetAPIServiceConditionByType(now, apiregistrationv1.Available)
	if c == nil || c.Status != apiregistrationv1.ConditionTrue {
		value = 1
	}
	m.unavailable.WithLabelValues(now.Name).Set(value)
	if was != nil && c != nil && value == 1 && helper.IsAPIServiceConditionTrue(was, apiregistrationv1.Available) {
		m.became.WithLabelValues(now.Name, c.Reason).Inc()
	}
}

// gone drops what was told of an APIService.
func (m metrics) gone(name string) {
	m.unavailable.DeleteLabelValues(name)
	m.became.DeletePartialMatch(prometheus.Labels{"name": name})
}
