package tracing_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n"

func TestFiles(t *testing.T) {
	for name, c := range map[string]struct{ file, refused string }{
		"nothing said":    {head, ""},
		"all said":        {head + "endpoint: 127.0.0.1:4317\nsamplingRatePerMillion: 1000000\n", ""},
		"older version":   {strings.Replace(head, "/v1", "/v1beta1", 1) + "endpoint: dns://127.0.0.1:4317\n", ""},
		"socket":          {head + "endpoint: unix:///run/collector.sock\n", ""},
		"negative rate":   {head + "samplingRatePerMillion: -1\n", "failed to validate tracing configuration: samplingRatePerMillion: Invalid value: -1: sampling rate must be positive"},
		"too high a rate": {head + "samplingRatePerMillion: 1000001\n", "failed to validate tracing configuration: samplingRatePerMillion: Invalid value: 1000001: sampling rate per million must be less than or equal to one million"},
		"other scheme": {head + "endpoint: https://collector:4317\n", `failed to validate tracing configuration: endpoint: Invalid value: "https://collector:4317": unsupported scheme: https.  ` +
			"Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md"},
		"unknown field": {head + "rate: 1\n", `failed to read tracing config: unable to decode tracing configuration data: strict decoding error: unknown field "rate"`},
		"other kind":    {"apiVersion: v1\nkind: Pod\n", `failed to read tracing config: unable to decode tracing configuration data: no kind "Pod" is registered`},
		"empty":         {"", "failed to read tracing config: unable to decode tracing configuration data: "},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "tracing.yaml")
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			tracer, err := tracing.Open(t.Context(), tracing.Config{File: file})
			switch {
			case c.refused == "" && err != nil, c.refused != "" && (err == nil || !strings.HasPrefix(err.Error(), c.refused)):
				t.Errorf("error = %v, want %q", err, c.refused)
			}
			if err := tracer.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := tracing.Open(t.Context(), tracing.Config{File: missing}); err == nil || err.Error() != "tracing-config-file "+missing+" does not exist" {
		t.Errorf("error = %v", err)
	}
	if tracer, err := tracing.Open(t.Context(), tracing.Config{}); tracer != nil || err != nil {
		t.Errorf("without a file: %v, %v", tracer, err)
	}
}
