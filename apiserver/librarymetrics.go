package apiserver

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"
)

// libraryMetrics are counted by the libraries that judge custom resources, for the process and not for a server, in a
// registry of their own. That has more, which is about programs of upstream.
var libraryMetrics = []string{
	"apiserver_cel_compilation_duration_seconds", "apiserver_cel_evaluation_duration_seconds",
	"apiextensions_apiserver_validation_ratcheting_seconds",
}

// withLibraries are the metrics of own and libraryMetrics.
func withLibraries(own prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.Gatherers{own, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := legacyregistry.DefaultGatherer.Gather()
		return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool { return !slices.Contains(libraryMetrics, f.GetName()) }), err
	})}
}
