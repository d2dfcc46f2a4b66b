package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	tracingv1 "k8s.io/component-base/tracing/api/v1"
	"k8s.io/utils/ptr"
)

// Config says where traces go, and of how many requests. The zero value means nowhere.
type Config struct {
	// File is a TracingConfiguration of apiserver.config.k8s.io/v1.
	File string
	// ServerID tells servers apart.
	ServerID string
	// Log is told of spans that are lost; nil means slog.Default().
	Log *slog.Logger
}

// AddFlags adds the flag of c, which is kube-apiserver's.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.File, "tracing-config-file", "", "TracingConfiguration of apiserver.config.k8s.io/v1: a collector of OpenTelemetry to which traces of requests are sent (OTLP over gRPC); none if empty")
}

// Tracer makes the spans of requests.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	exporter *exporter
}

// Open makes a Tracer, nil if there is no configuration. The collector need not be there yet.
func Open(ctx context.Context, c Config) (*Tracer, error) {
	if c.File == "" {
		return nil, nil
	}
	file, err := read(c.File)
	if err != nil {
		return nil, err
	}
	options := []otlptracegrpc.Option{otlptracegrpc.WithInsecure()}
	if file.Endpoint != nil {
		options = append(options, otlptracegrpc.WithEndpoint(*file.Endpoint))
	}
	collector, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("trace to %s: %w", ptr.Deref(file.Endpoint, "the collector"), err)
	}
	log := c.Log
	if log == nil {
		log = slog.Default()
	}
	exporter := newExporter(collector, log)
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sampler(ptr.Deref(file.SamplingRatePerMillion, 0)))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "apiserver"), attribute.String("service.instance.id", c.ServerID))),
	)
	return &Tracer{provider, provider.Tracer(scope), exporter}, nil
}

// sampler is for requests that are of no trace yet.
func sampler(perMillion int32) sdktrace.Sampler {
	if perMillion == 0 {
		return sdktrace.NeverSample()
	}
	return sdktrace.TraceIDRatioBased(float64(perMillion) / 1e6)
}

// Close sends what has not been sent, for a moment: spans are not worth to wait for a collector that is not there. There is nothing to
// do for nil.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lastMoment)
	defer cancel()
	defer t.exporter.end()
	return t.provider.Shutdown(ctx)
}

const lastMoment = 2 * time.Second

// read reads and validates a file. Errors are those of kube-apiserver.
func read(path string) (*tracingv1.TracingConfiguration, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("tracing-config-file %s does not exist", path)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to read tracing config: unable to read tracing configuration from %q: %w", path, err)
	}
	obj, err := runtime.Decode(decoder, data)
	if err != nil {
		return nil, fmt.Errorf("failed to read tracing config: unable to decode tracing configuration data: %w", err)
	}
	file, ok := obj.(*apiserverv1.TracingConfiguration)
	if !ok {
		return nil, fmt.Errorf("failed to read tracing config: unable to decode tracing configuration data: expected TracingConfiguration, got %T", obj)
	}
	if problems := tracingv1.ValidateTracingConfiguration(&file.TracingConfiguration, nil, nil); len(problems) > 0 {
		return nil, fmt.Errorf("failed to validate tracing configuration: %w", problems.ToAggregate())
	}
	return &file.TracingConfiguration, nil
}

// decoder is strict. The older versions of the file have the same fields.
var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	utilruntime.Must(apiserverv1.AddToScheme(scheme))
	for _, version := range []string{"v1beta1", "v1alpha1"} {
		gvk := apiserverv1.SchemeGroupVersion.WithKind("TracingConfiguration")
		gvk.Version = version
		scheme.AddKnownTypeWithName(gvk, &apiserverv1.TracingConfiguration{})
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()
