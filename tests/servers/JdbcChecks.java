// What a tool over JDBC asks of a database, one check a line: `ok NAME` or `FAIL NAME: why`.
// java -cp 'libs/*' JdbcChecks.java URL USER PASSWORD
import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;

public class JdbcChecks {
  interface Check { Object run() throws Exception; }

  static int failed = 0;

  static void check(String name, Object expected, Check check) {
    try {
      Object found = check.run();
      if (String.valueOf(expected).equals(String.valueOf(found))) {
        System.out.println("ok " + name);
        return;
      }
      System.out.println("FAIL " + name + ": expected " + expected + ", found " + found);
    } catch (Exception error) {
      String state = error instanceof SQLException ? ((SQLException) error).getSQLState() : "";
      System.out.println("FAIL " + name + ": " + state + " " + error);
    }
    failed++;
  }

  static List<String> column(ResultSet rows, String name) throws SQLException {
    List<String> found = new ArrayList<>();
    while (rows.next()) found.add(rows.getString(name));
    return found;
  }

  static String state(Connection c, String sql) {
    try (Statement s = c.createStatement()) {
      s.execute(sql);
      return "none";
    } catch (SQLException error) {
      return error.getSQLState();
    }
  }

  public static void main(String[] words) throws Exception {
    try (Connection c = DriverManager.getConnection(words[0], words[1], words[2])) {
      DatabaseMetaData about = c.getMetaData();
      check("product", "PostgreSQL 15", () -> about.getDatabaseProductName() + " " + about.getDatabaseMajorVersion());
      check("catalogs", List.of("lake"), () -> column(about.getCatalogs(), "TABLE_CAT"));
      check("schemas", true, () -> column(about.getSchemas(), "TABLE_SCHEM").containsAll(List.of("s", "other")));
      check("tables", "[events, late]",
          () -> column(about.getTables(null, "s", "%", new String[] {"TABLE"}), "TABLE_NAME"));
      check("columns", true, () -> column(about.getColumns(null, "s", "events", "%"), "COLUMN_NAME").contains("user"));
      check("column types", "int8", () -> {
        ResultSet rows = about.getColumns(null, "s", "events", "n");
        rows.next();
        return rows.getString("TYPE_NAME");
      });
      check("remarks", "When the event was accepted (UTC).", () -> {
        ResultSet rows = about.getColumns(null, "s", "events", "_ingested_at");
        rows.next();
        return rows.getString("REMARKS");
      });
      check("primary keys", "[]", () -> column(about.getPrimaryKeys(null, "s", "events"), "COLUMN_NAME"));
      check("imported keys", "[]", () -> column(about.getImportedKeys(null, "s", "events"), "FKCOLUMN_NAME"));
      check("indexes", "[]", () -> column(about.getIndexInfo(null, "s", "events", false, false), "INDEX_NAME"));
      check("type info", true, () -> column(about.getTypeInfo(), "TYPE_NAME").contains("timestamptz"));
      check("keywords and functions", true, () -> about.getSQLKeywords() != null && about.getFunctions(null, null, "%") != null);
      check("parameters", 18L, () -> {
        try (PreparedStatement s = c.prepareStatement("SELECT n FROM s.events WHERE n > ? AND \"user\" = ? ORDER BY n LIMIT ?")) {
          s.setInt(1, 17);
          s.setString(2, "user-3");
          s.setInt(3, 1);
          ResultSet rows = s.executeQuery();
          rows.next();
          return rows.getLong(1);
        }
      });
      check("binary after five", "20", () -> {
        int count = 0;
        for (int i = 0; i < 10; i++) {
          try (PreparedStatement s = c.prepareStatement("SELECT ?::bigint + 1, 1.5::double precision, now(), 12.50::decimal(10,2)")) {
            ((org.postgresql.PGStatement) s).setPrepareThreshold(5);
            for (int j = 0; j < 7; j++) {
              s.setLong(1, i);
              ResultSet rows = s.executeQuery();
              rows.next();
              if (j == 6 && rows.getLong(1) == i + 1 && rows.getBigDecimal(4).equals(new BigDecimal("12.50"))) count += 2;
            }
          }
        }
        return count;
      });
      check("dates", "2026-01-05 2015-09-12T12:00:01Z", () -> {
        try (PreparedStatement s = c.prepareStatement("SELECT ?::date, time FROM s.events WHERE time >= ? ORDER BY time LIMIT 1")) {
          s.setDate(1, java.sql.Date.valueOf("2026-01-05"));
          s.setObject(2, OffsetDateTime.parse("2015-09-12T12:00:01Z"));
          ResultSet rows = s.executeQuery();
          rows.next();
          return rows.getDate(1) + " " + rows.getObject(2, OffsetDateTime.class).toInstant();
        }
      });
      check("arrays", "[1, 2]", () -> {
        ResultSet rows = c.createStatement().executeQuery("SELECT ARRAY[1, 2]::int[]");
        rows.next();
        return Arrays.toString((Object[]) rows.getArray(1).getArray());
      });
      check("fetch size", 100000, () -> {
        c.setAutoCommit(false);
        try (Statement s = c.createStatement()) {
          s.setFetchSize(7000);
          ResultSet rows = s.executeQuery("SELECT i, 'x' || i FROM generate_series(1, 100000) AS t(i)");
          int count = 0;
          while (rows.next()) if (rows.getString(2).equals("x" + ++count)) continue;
          return count;
        } finally {
          c.commit();
          c.setAutoCommit(true);
        }
      });
      check("states", "42P01 42703 42601 25006", () ->
          state(c, "SELECT 1 FROM nope.nope") + " " + state(c, "SELECT nope FROM s.events") + " " + state(c, "SELEC 1")
              + " " + state(c, "DELETE FROM s.events"));
      check("read only and valid", "true 57014", () -> {
        boolean valid = c.isValid(5);
        c.setReadOnly(true);
        c.setAutoCommit(false);
        c.createStatement().executeQuery("SELECT 1");
        c.commit();
        c.setAutoCommit(true);
        try (Statement s = c.createStatement()) {
          s.setQueryTimeout(1);
          s.executeQuery("SELECT count(*) FROM range(100000000) a, range(1000000) b WHERE a.range * b.range % 1000003 = 5");
          return valid + " none";
        } catch (SQLException error) {
          return valid + " " + error.getSQLState();
        }
      });
    }
    System.exit(failed == 0 ? 0 : 1);
  }
}
